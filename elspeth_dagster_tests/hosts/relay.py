"""Lets hosts reach what listens elsewhere on this machine: `relay.py ADDRESS PORT=TARGET …`, until stdin closes.

A target is a port of 127.0.0.1 or the path of a Unix socket.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connected(target: str) -> Streams:
    """A connection to a target."""
    if target.isdigit():
        return await asyncio.open_connection("127.0.0.1", int(target))
    return await asyncio.open_unix_connection(target)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand over all that comes, then the end."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def relay(address: str, links: list[str]) -> None:
    """Listen for each link."""
    for link in links:
        port, target = link.split("=")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str = target) -> None:
            with suppress(OSError):
                there = await connected(target)
                await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

        await asyncio.start_server(serve, address, int(port))
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(relay(sys.argv[1], sys.argv[2:]))
