"""Callers of a service, in processes of their own, so that what they do is not taken for what the service does.

``python -m tests.benchmarks.visitors many HOST PORT PATH CALLERS REQUESTS``

Each of so many callers has a connection of its own and makes one request after the other. In PATH, ``{}`` is a number
that no other request has.

``python -m tests.benchmarks.visitors probe HOST PORT``

Asks ``/healthz`` every few milliseconds until its input ends, and tells how long each answer took.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import select
import socket
import sys
import time

PAUSE = 0.002
"""Seconds between two questions of the probe."""

LONGEST = 100
"""Seconds for anything here: far more than it takes, so that a fault ends the run."""

HEADERS = "HTTP/1.1\r\nHost: service\r\n\r\n"


async def many(host: str, port: int, path: str, callers: int, requests: int) -> dict[str, object]:
    """Make requests, so many at a time."""
    numbers = itertools.count()
    bodies: list[bytes] = []

    async def call() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(requests):
            writer.write(f"GET {path.replace('{}', str(next(numbers)))} {HEADERS}".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            bodies.append(await reader.readexactly(int(length[1])))
        writer.close()

    async with asyncio.timeout(LONGEST):
        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        took = time.perf_counter() - began
    return {"seconds": took, "answers": [json.loads(body) for body in bodies]}


def probe(host: str, port: int) -> list[float]:
    """Ask for a sign of life again and again; the seconds that each took."""
    took: list[float] = []
    with socket.create_connection((host, port), timeout=LONGEST) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            began = time.perf_counter()
            connection.sendall(f"GET /healthz {HEADERS}".encode())
            said = b""
            while not said.endswith(b"}"):
                said += connection.recv(4096)
            took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    what, where, door, *rest = sys.argv[1:]
    if what == "probe":
        print(json.dumps(probe(where, int(door))))
    else:
        print(json.dumps(asyncio.run(many(where, int(door), rest[0], int(rest[1]), int(rest[2])))))
