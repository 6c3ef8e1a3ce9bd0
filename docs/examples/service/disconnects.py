"""Callers who leave: nobody tells a handler, so it has to look."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def while_connected(request: Request, call: Awaitable[T]) -> T:
    """Await a call, and cancel it when the caller closes the connection.

    A call of the client that is cancelled revokes its task, so that no worker computes what nobody will read. The
    request's body must have been read before.

    Raises:
        ClientDisconnect: The caller left.
    """
    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(_cancel_when_gone(request, scope))
        try:
            return await call
        finally:
            watcher.cancel()
    raise ClientDisconnect


async def _cancel_when_gone(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # The empty body of a GET.
    scope.cancel()
