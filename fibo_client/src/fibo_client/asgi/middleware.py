"""The middleware of a service: callers who leave cancel their work, and errors of the client become responses.

A web server does not stop a handler whose caller is gone. It tells of that in ``receive``, where few handlers look.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias, cast

import anyio

from fibo_client.asgi.problem import CLIENT_CLOSED_REQUEST, MEDIA_TYPE, Problem, retry_after
from fibo_client.errors import ClientStateError, TransportError
from fibo_client.text import printable

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

logger: Final = logging.getLogger("fibo_client")

_DISCONNECT: Final = "http.disconnect"
_CUT: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)
_LEFT: Final = Problem.of(CLIENT_CLOSED_REQUEST, "The caller left.")
_STOPPING: Final = ClientStateError("the server cancelled the request")


class FiboMiddleware:
    """ASGI middleware for services that call workers.

    ::

        app.add_middleware(FiboMiddleware)  # Starlette, FastAPI

    A caller who leaves before the response is complete has the handler cancelled, and with it the calls that it awaits:
    their tasks are revoked, and terminated with ``terminate_on_cancel=True``. Work that is to go on is handed out by
    `fibo_client.celery.CeleryClient.send`. What runs after the response, such as a background task, is not cancelled,
    nor is what runs in a thread. A server that shuts down and cancels a handler is not a caller who left: its caller
    gets 503.

    An error of the client's that the handler does not catch becomes the response of its `Problem`, if none has begun. A
    bug, which would be 500, is left to the framework. Starlette and FastAPI let errors come as far as this. Others,
    such as Django, make a response of each before: give them an error handler that uses `Problem.from_error`.

    Args:
        app: The application.
        cancel_on_disconnect: Whether to cancel the handler of a caller who leaves.
    """

    def __init__(self, app: ASGIApp, *, cancel_on_disconnect: bool = True) -> None:
        self._app = app
        self._cancel_on_disconnect = cancel_on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. See ASGI's specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            if self._cancel_on_disconnect:
                await exchange.run(self._app)
            else:
                await self._app(scope, receive, exchange.send)
        except Exception as error:
            problem = Problem.from_error(error)
            if problem.status == 500 or exchange.started:
                raise
            # An outage is two lines in the log already, however many requests it fails.
            level = logging.INFO if isinstance(error, TransportError) else logging.WARNING
            logger.log(level, "%s %s: %d: %s", scope["method"], printable(scope["path"], 200), problem.status, error)
            await exchange.respond(problem, error)


class _Exchange:
    """One request and its response.

    Attributes:
        started: Whether the response has begun.
        ended: Whether all of it was given to the server.
        left: Whether the caller left before.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.started: bool = False
        self.ended: bool = False
        self.left: bool = False
        self._messages: deque[Message] = deque()
        self._news = asyncio.Event()
        self._watcher: asyncio.Task[None]
        self._room = asyncio.Event()
        # To look is to read the body, and to read it is to send "100 Continue": that is for the application to decide.
        if not any(name == b"expect" for name, _ in scope["headers"]):
            self._room.set()

    async def run(self, app: ASGIApp) -> None:
        """Have the application handle the request, and cancel it when the caller leaves."""
        handler = cast("asyncio.Task[Any]", asyncio.current_task())
        before = handler.cancelling()
        self._watcher = asyncio.get_running_loop().create_task(
            self._watch(handler), name="fibo_client.disconnects", context=contextvars.Context()
        )
        self._watcher.add_done_callback(lambda _: self._news.set())
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            if handler.cancelling() - self.left > before:
                # By the server, or by whoever else runs this.
                await self.respond(Problem.from_error(_STOPPING), _STOPPING)
                raise
            if not self.left:
                raise  # Something that it awaited was cancelled.
        except Exception as error:
            if not (self.left and _is_of_a_cut_stream(error)):
                raise
        finally:
            self._watcher.cancel()
            if self.left:
                handler.uncancel()
        if self.left:
            await self.respond(_LEFT)

    async def _watch(self, handler: asyncio.Task[Any]) -> None:
        """Read what the caller sends, one piece ahead of the application, until the caller leaves."""
        while True:
            await self._room.wait()
            message = await self._receive()
            if message["type"] == _DISCONNECT:
                break
            if message.get("more_body"):
                self._room.clear()
            self._messages.append(message)
            self._news.set()
        if not self.ended:
            self.left = True
            handler.cancel()

    async def receive(self) -> Message:
        """Give the application what the caller sent."""
        self._room.set()
        while not self._messages:
            if self._watcher.done():
                self._watcher.result()  # The server's error, if there was one.
                return {"type": _DISCONNECT}
            self._news.clear()
            await self._news.wait()
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        """Give the server what the application sends."""
        if message["type"] == "http.response.start":
            self.started = True
        elif not message.get("more_body"):
            self.ended = True  # Before it is sent: what comes afterwards is not cancelled by who has all of it.
        with contextlib.suppress(OSError):  # Servers of ASGI 2.4 raise it where the caller is gone; others do nothing.
            await self._send(message)

    async def respond(self, problem: Problem, error: BaseException | None = None) -> None:
        """Send a problem document, unless a response has begun."""
        if self.started:
            return
        body = problem.to_json()
        seconds = None if error is None else retry_after(error)
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        if seconds is not None:
            headers.append((b"retry-after", str(seconds).encode()))
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _is_of_a_cut_stream(error: Exception) -> bool:
    """Tell whether an error means only that a stream in memory was closed at one end, as by a cancelled handler."""
    if isinstance(error, ExceptionGroup):
        return error.split(_CUT)[1] is None
    return isinstance(error, _CUT)
