"""A TCP proxy with a long way: every byte arrives DELAY_MS later, in both directions, at full bandwidth.

object_storage_delay.py TARGET_PORT DELAY_MS     # prints the port where it listens, and goes on until it is killed
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

_READ = 256 << 10
_UNDER_WAY = 256
"""Reads that may be under way in one direction of a connection."""


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(due - loop.time(), 0))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    async def take() -> None:
        data = b"more"
        while data:
            data = await reader.read(_READ)
            await under_way.put((loop.time() + delay_s, data))

    with contextlib.suppress(OSError):
        await asyncio.gather(take(), deliver())


async def _serve(target: int, delay_s: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=_READ)
        await asyncio.gather(_carry(reader, far_writer, delay_s), _carry(far_reader, writer, delay_s))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_READ, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1e3))
