"""Lets hosts reach what listens elsewhere on this machine: `relay.py ADDRESS PORT=TARGET …`, until stdin closes.

A target is a port of 127.0.0.1 or the path of a Unix socket.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connected(target: str) -> Streams:
    """A connection to a target."""
    if target.isdigit():
        return await asyncio.open_connection("127.0.0.1", int(target))
    return await asyncio.open_unix_connection(target)


def notice_silence(writer: asyncio.StreamWriter) -> None:
    """Take a host that is silent for gone when PostgreSQL would, to which the relay hides the host."""
    link: socket.socket = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 45_000)):
        link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand over all that comes, then the end."""
    with suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def relay(address: str, links: list[str]) -> None:
    """Listen for each link."""
    for link in links:
        port, target = link.split("=")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str = target) -> None:
            notice_silence(writer)
            with suppress(OSError, asyncio.CancelledError):
                there = await connected(target)
                await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

        await asyncio.start_server(serve, address, int(port))
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(relay(sys.argv[1], sys.argv[2:]))
