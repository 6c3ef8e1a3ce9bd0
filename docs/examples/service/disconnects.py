"""Callers who leave: nobody tells a handler, so it has to look."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class LookOut:
    """Have Starlette look out for who leaves a stream, on whatever server, and make nothing of it.

    It looks only where the server's ASGI is older than 2.4, as uvicorn's is. A newer one raises an OSError when
    something is sent to a caller who is gone, and Starlette waits for that. But a stream that waits sends nothing, and
    the work would go on for nobody.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_if_there(message: Message) -> None:
            with suppress(OSError):
                await send(message)

        if scope["type"] == "http":
            scope = {**scope, "asgi": {**scope["asgi"], "spec_version": "2.3"}}
        try:
            await self.app(scope, receive, send_if_there)
        except* anyio.BrokenResourceError:
            pass  # FastAPI 0.165, where who leaves had stopped reading: it closes the pipe before it stops the writer.
