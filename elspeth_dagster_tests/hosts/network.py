"""A network of hosts: one bridge, and a namespace with a name and a link for each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
REDIS_PORT = 6379


def missing() -> str | None:
    """What this machine lacks for hosts; None if nothing."""
    if os.geteuid() != 0:
        return "hosts are network namespaces, which only root can make: run this test as root"
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("redis-server", "redis-server")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: `make browser` as root installs it, or apt-get install {package}"
    return None


def run(*command: str) -> None:
    """Run a command. Raises RuntimeError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Host:
    """A namespace on the network, and the processes that were started in it."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.name, self._network = name, network
        self._space, self._link = f"{network.prefix}{number}", f"{network.prefix}v{number}"
        run("ip", "netns", "add", self._space)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        run("ip", "link", "set", self._link, "master", network.prefix, "up")
        inside = ("ip", "-n", self._space)
        run(*inside, "addr", "add", f"{network.subnet}.{number + 1}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], env: dict[str, str], folder: Path, hidden: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process on this host, where the folder `hidden` is an empty one of its own."""
        hide = f"mount -t tmpfs tmpfs {hidden} && " if hidden else ""
        shell = f'hostname {self.name} && {hide}exec "$@"'
        spaces = ("ip", "netns", "exec", self._space, "unshare", "--uts", "--mount", "sh", "-c", shell, "sh")
        log = (folder / f"{self.name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                [*spaces, *command], cwd=folder, env=env, start_new_session=True, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def die(self) -> None:
        """Kill -9 whatever runs on it."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._started.clear()

    def cut(self) -> None:
        """Take its link down: nothing comes or goes, and nobody is told."""
        run("ip", "link", "set", self._link, "down")

    def mend(self) -> None:
        """Put its link up again."""
        run("ip", "link", "set", self._link, "up")

    def close(self) -> None:
        """Remove it, with all that runs on it."""
        self.die()
        with suppress(RuntimeError):  # it goes with its namespace, sooner or later
            run("ip", "link", "del", self._link)
        run("ip", "netns", "del", self._space)


class Network:
    """A bridge, and on it a Redis, relays to what listens elsewhere, and hosts."""

    def __init__(self, folder: Path) -> None:
        self.number = os.getpid() % 200 + 20
        self.prefix, self.subnet = f"eh{self.number}", f"10.{self.number}.77"
        self.address = f"{self.subnet}.1"
        self._folder, self._closing = folder, ExitStack()
        self._redis: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        run("ip", "link", "add", self.prefix, "type", "bridge")
        self._closing.callback(run, "ip", "link", "del", self.prefix)
        run("ip", "addr", "add", f"{self.address}/24", "dev", self.prefix)
        run("ip", "link", "set", self.prefix, "up")
        self.start_redis()
        self._closing.callback(self.stop_redis)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @property
    def broker(self) -> str:
        """The url of the Redis."""
        return f"redis://{self.address}:{REDIS_PORT}/0"

    def host(self, name: str, number: int) -> Host:
        """A new host."""
        host = Host(self, name, number)
        self._closing.callback(host.close)
        return host

    def start_redis(self) -> None:
        """Start Redis, with what it had: each write is on disk before it is acknowledged."""
        (self._folder / "redis").mkdir(exist_ok=True)
        keeping = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--protected-mode", "no")
        where = ("--bind", self.address, "--port", str(REDIS_PORT), "--dir", str(self._folder / "redis"))
        self._redis = subprocess.Popen(["redis-server", *where, *keeping], stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.broker)
        for _ in range(200):
            with suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
                client.ping()
                return
            time.sleep(0.05)
        raise TimeoutError("redis-server did not come up")

    def stop_redis(self) -> None:
        """Kill -9 the Redis."""
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()

    @contextmanager
    def relays(self, **targets: str) -> Iterator[dict[str, int]]:
        """Ports of the bridge at which hosts reach these targets."""
        ports = {name: 7000 + place for place, name in enumerate(targets)}
        links = [f"{ports[name]}={target}" for name, target in targets.items()]
        command = [sys.executable, str(Path(__file__).with_name("relay.py")), self.address, *links]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as relay:
            assert relay.stdout is not None
            relay.stdout.readline()
            try:
                yield ports
            finally:
                relay.communicate()
