"""The middleware: callers who leave, servers that stop, errors and bodies, on a server that a test plays."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from support.clock import virtual

from fibo_client import PublishError, ResultTimeoutError, TaskFailedError
from fibo_client.asgi import FiboMiddleware

BODY = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}
START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"done"}


class Server:
    """A server: what it tells the application, and what the application sends."""

    def __init__(self, *messages, headers=()) -> None:
        self.scope = {"type": "http", "method": "GET", "path": "/report", "headers": list(headers)}
        self.messages: asyncio.Queue = asyncio.Queue()
        self.tell(*messages)
        self.sent: list[dict] = []
        self.taken = 0

    def tell(self, *messages) -> None:
        for message in messages:
            self.messages.put_nowait(message)

    async def receive(self):
        message = await self.messages.get()
        self.taken += 1
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def problem(self) -> dict:
        headers = dict(self.sent[0]["headers"])
        assert headers[b"content-type"] == b"application/problem+json"
        assert headers[b"content-length"] == str(len(self.sent[1]["body"])).encode()
        return json.loads(self.sent[1]["body"])

    def start(self, app, **options) -> asyncio.Task:
        return asyncio.create_task(self.handle(app, **options))

    async def handle(self, app, **options) -> None:
        await FiboMiddleware(app, **options)(self.scope, self.receive, self.send)

    @asynccontextmanager
    async def handling(self, app):
        """Let an application handle the request, which it must have done at the end of the block."""
        handling = self.start(app)
        await asyncio.sleep(1)
        yield handling
        await asyncio.wait_for(handling, 1)


class Handler:
    """An application that waits for a long time, and answers then."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.cleaned = False

    async def __call__(self, scope, receive, send) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0.1)  # Cleaning up may wait: it is cancelled once.
            self.cleaned = True
            raise
        await send(START)
        await send(END)


# Who leaves.


@virtual
async def test_who_leaves_has_the_handler_cancelled_once_and_others_see_499():
    server, handler = Server(BODY), Handler()
    async with server.handling(handler) as handling:
        server.tell(GONE)
    assert (handler.cancelled, handler.cleaned, handling.cancelling()) == (1, True, 0)
    assert server.status == server.problem["status"] == 499


@virtual
async def test_who_stays_gets_the_response():
    server = Server(BODY)
    await server.handle(Handler())
    assert server.sent == [START, END]
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_who_leaves_a_stream_gets_no_second_response():
    async def stream(scope, receive, send):
        await send(START)
        while True:
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.1)

    server = Server(BODY)
    async with server.handling(stream):
        server.tell(GONE)
        sent = len(server.sent)
    assert len(server.sent) <= sent + 1
    assert {message["type"] for message in server.sent[1:]} == {"http.response.body"}


@virtual
async def test_what_runs_after_the_response_is_not_cancelled():
    done = []

    async def background(scope, receive, send):
        await send(START)
        await send(END)
        await asyncio.sleep(10)
        done.append(True)

    server = Server(BODY)
    async with server.handling(background):
        server.tell(GONE)  # As servers say of every complete response.
        await asyncio.sleep(20)
    assert done


@virtual
async def test_a_handler_that_takes_no_notice_answers_nobody_and_leaves_no_cancellation_behind():
    async def stubborn(scope, receive, send):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await send(START)
        await send(END)

    server = Server(BODY)
    async with server.handling(stubborn) as handling:
        server.tell(GONE)
    assert handling.cancelling() == 0


@virtual
async def test_a_handler_that_waits_for_the_caller_to_leave_is_told_again_and_again():
    told = []

    async def listening(scope, receive, send):
        with suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                pass
        told.extend([(await receive())["type"], (await receive())["type"]])

    server = Server(BODY)
    async with server.handling(listening):
        server.tell(GONE)
    assert told == ["http.disconnect"] * 2


@virtual
async def test_a_timeout_of_the_handler_s_own_is_not_a_caller_who_left():
    async def impatient(scope, receive, send):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.sleep(100)
        await send(START)
        await send(END)

    server = Server(BODY)
    await server.handle(impatient)
    assert server.sent == [START, END]


@virtual
async def test_it_can_be_told_to_cancel_nobody():
    server, handler = Server(BODY), Handler()
    handling = server.start(handler, cancel_on_disconnect=False)
    server.tell(GONE)
    await handling
    assert (handler.cancelled, server.sent) == (0, [START, END])


@pytest.mark.parametrize("as_group", [True, False])
@virtual
async def test_a_stream_that_is_cut_because_the_caller_left_is_no_error(as_group):
    async def cut(scope, receive, send):
        await send(START)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            error = anyio.BrokenResourceError()
            raise (ExceptionGroup("pipe", [error]) if as_group else error) from None

    server = Server(BODY)
    async with server.handling(cut):
        server.tell(GONE)


@virtual
async def test_a_stream_that_is_cut_for_another_reason_is_an_error():
    with pytest.raises(anyio.BrokenResourceError):
        await Server(BODY).handle(raising(anyio.BrokenResourceError()))


@virtual
async def test_a_bug_in_cleaning_up_after_who_left_is_an_error():
    async def broken(scope, receive, send):
        try:
            await asyncio.sleep(100)
        finally:
            raise ValueError("a bug")

    server = Server(BODY)
    with pytest.raises(ValueError, match="a bug"):
        async with server.handling(broken):
            server.tell(GONE)


@virtual
async def test_a_server_that_raises_when_the_caller_is_gone_is_as_one_that_does_nothing():
    server = Server(BODY)

    async def refuse(message):
        raise BrokenPipeError

    server.send = refuse

    async def stream(scope, receive, send):
        await send(START)
        await asyncio.sleep(100)

    async with server.handling(stream):
        server.tell(GONE)


# Who stops the server.


@virtual
async def test_a_server_that_stops_cancels_its_handlers_and_their_callers_are_told():
    server, handler = Server(BODY), Handler()
    handling = server.start(handler)
    await asyncio.sleep(1)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert (handler.cancelled, server.problem["detail"]) == (1, "The service is stopping.")
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_server_that_stops_while_the_caller_leaves_stops():
    server, handler = Server(BODY), Handler()
    handling = server.start(handler)
    await asyncio.sleep(1)
    server.tell(GONE)
    await asyncio.sleep(0.05)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert handling.cancelling() == 1


@virtual
async def test_something_else_that_was_cancelled_is_not_a_caller_who_left():
    async def unlucky(scope, receive, send):
        task = asyncio.create_task(asyncio.sleep(100))
        task.cancel()
        await task

    server = Server(BODY)
    with pytest.raises(asyncio.CancelledError):
        await server.handle(unlucky)
    assert server.sent == []


# Bodies.


@virtual
async def test_the_handler_gets_the_body_piece_by_piece_and_no_more_than_one_is_read_ahead():
    pieces = [{"type": "http.request", "body": bytes([n]), "more_body": n < 9} for n in range(10)]
    server = Server(*pieces)
    seen = []

    async def reading(scope, receive, send):
        while True:
            await asyncio.sleep(1)
            assert server.taken <= len(seen) + 1
            message = await receive()
            seen.append(message)
            if not message["more_body"]:
                break
        await send(START)
        await send(END)

    await server.handle(reading)
    assert seen == pieces


@virtual
async def test_a_caller_who_leaves_while_the_body_is_read_is_told_to_the_handler():
    async def reading(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ConnectionError("the body is not complete")

    server = Server({"type": "http.request", "body": b"a", "more_body": True})
    async with server.handling(reading):
        server.tell(GONE)
    assert server.status == 499


@virtual
async def test_nothing_is_read_of_who_waits_for_a_word_until_the_handler_reads():
    server = Server(BODY, headers=[(b"expect", b"100-continue")])

    async def refusing(scope, receive, send):
        await asyncio.sleep(1)
        assert server.taken == 0
        await receive()
        await asyncio.sleep(0.1)
        assert server.taken == 1
        await send(START)
        await send(END)

    await server.handle(refusing)
    assert server.sent == [START, END]


@virtual
async def test_an_error_of_the_server_s_is_the_handler_s_to_see():
    async def reading(scope, receive, send):
        await receive()

    with pytest.raises(RuntimeError, match="the server's"):
        await Server(RuntimeError("the server's")).handle(reading)


# Errors.


def raising(error, *, after=()):
    async def app(scope, receive, send):
        for message in after:
            await send(message)
        raise error

    return app


LATE = ResultTimeoutError(task="t", task_ids=["a"], state="PENDING", waited=1)
FAILED = TaskFailedError(
    task_id="a", task="t", exc_type="E", exc_module=None, exc_args=("a secret",), traceback="a secret"
)


@pytest.mark.parametrize(
    ("error", "status", "level"),
    [
        (LATE, 504, logging.WARNING),
        (PublishError("redis://a-secret: gone", ["a"]), 503, logging.INFO),
        (FAILED, 502, logging.WARNING),
        (ExceptionGroup("tasks", [LATE]), 504, logging.WARNING),
    ],
)
@virtual
async def test_an_error_of_the_client_s_is_a_problem_document_and_a_line_in_the_log(caplog, error, status, level):
    server = Server(BODY)
    with caplog.at_level(logging.INFO, "fibo_client"):
        await server.handle(raising(error))
    assert server.status == server.problem["status"] == status
    assert b"secret" not in server.sent[1]["body"]
    assert dict(server.sent[0]["headers"]).get(b"retry-after") == (b"1" if status == 503 else None)
    ((_, logged, text),) = caplog.record_tuples
    assert (logged, text.startswith(f"GET /report: {status}: ")) == (level, True)


@pytest.mark.parametrize("error", [ValueError("a bug"), ExceptionGroup("tasks", [LATE, ValueError("a bug")])])
@virtual
async def test_a_bug_is_left_to_the_framework(error):
    server = Server(BODY)
    with pytest.raises(type(error)):
        await server.handle(raising(error))
    assert server.sent == []


@virtual
async def test_an_error_in_the_middle_of_a_response_is_left_to_the_server():
    server = Server(BODY)
    with pytest.raises(ResultTimeoutError):
        await server.handle(raising(LATE, after=[START]))
    assert server.sent == [START]


# What it leaves alone.


@virtual
async def test_other_protocols_pass_through():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    server = Server()
    for kind in ("lifespan", "websocket"):
        server.scope = {"type": kind}
        await server.handle(app)
    assert [(scope["type"], receive, send) for scope, receive, send in seen] == [
        (kind, server.receive, server.send) for kind in ("lifespan", "websocket")
    ]


@virtual
async def test_the_handler_runs_in_the_caller_s_context():
    mark = contextvars.ContextVar("mark", default="")
    seen = []

    async def app(scope, receive, send):
        seen.append(mark.get())
        await send(START)
        await send(END)

    mark.set("traced")
    await Server(BODY).handle(app)
    assert seen == ["traced"]
