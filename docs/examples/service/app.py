"""A web service that computes Fibonacci numbers on Celery workers, and never blocks its event loop.

    pip install fibo-client fastapi uvicorn
    cd docs/examples
    uvicorn service.app:app

It needs a Redis and a worker: `fibo-worker dev` starts both, and prints the CELERY_BROKER_URL to give to this service.
Then open http://127.0.0.1:8000/. (Written for FastAPI 0.165, which sends server-sent events itself.)
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles

from fibo_client import FiboClient, Stream
from fibo_client.asgi import FiboMiddleware, Problem, Readiness

from .errors import HANDLERS, RESPONSES
from .schemas import Fibonacci, Fibonaccis, Index, Wanted, expand
from .settings import settings

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
WINDOW = 100
"""The most numbers of one stream that are under way, or finished and not yet sent."""


# One client for the whole service: opened when it starts, closed when it stops.


class State(TypedDict):
    client: FiboClient
    readiness: Readiness


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    async with FiboClient(max_n=settings.max_n, timeout=settings.timeout, max_pending=settings.max_pending) as client:
        yield {"client": client, "readiness": Readiness(client.celery, timeout=settings.ready_timeout)}


async def get_client(request: Request) -> FiboClient:  # async: FastAPI calls plain functions in a thread
    client: FiboClient = request.state.client
    return client


Client = Annotated[FiboClient, Depends(get_client)]

app = FastAPI(title="Fibonacci numbers", lifespan=lifespan, exception_handlers=HANDLERS, max_body_size=64 * 1024)
app.add_middleware(FiboMiddleware)


# Many numbers, as they are finished.


async def not_again(last_event_id: Annotated[str | None, Header(include_in_schema=False)] = None) -> None:
    """Tell an EventSource that has read all of its stream to stop: it would ask again for ever."""
    if last_event_id == "done":
        raise HTTPException(204)


async def open_stream(
    client: Client, numbers: Annotated[list[int], Depends(expand)]
) -> AsyncIterator[Stream[int, int | Exception]]:
    """Open a stream that is closed when the response has ended, however that came.

    A caller who reads slowly slows the stream down. For one who leaves, what is unfinished is revoked.
    """
    async with client.stream(numbers, max_in_flight=WINDOW, return_exceptions=True) as results:
        yield results


@app.get(
    "/fibonacci/stream",
    response_class=EventSourceResponse,
    responses=RESPONSES,
    dependencies=[Depends(not_again)],
)
async def stream_fibonacci(
    numbers: Annotated[list[int], Depends(expand)],
    results: Annotated[Stream[int, int | Exception], Depends(open_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """Send each number as soon as it is finished.

    The events: `start` with how many there will be, then for each number `result` or `problem`, and `done`. (Not
    `error`: that is what an EventSource calls its own troubles.) FastAPI sends a comment every 15 seconds in between,
    so that no proxy takes a slow stream for a dead one.
    """
    yield ServerSentEvent(event="start", data={"total": len(numbers)})
    errors: list[Exception] = []
    async for n, answer in results:
        if isinstance(answer, Exception):
            errors.append(answer)
            yield ServerSentEvent(event="problem", data={"n": n, **Problem.from_error(answer).to_dict()})
        else:
            yield ServerSentEvent(event="result", data=Fibonacci.of(n, answer))
    if errors:
        log.warning("%d of %d numbers of a stream failed, the last one so: %s", len(errors), len(numbers), errors[-1])
    yield ServerSentEvent(event="done", id="done", data={"total": len(numbers), "failed": len(errors)})


# One number, and many at once.


@app.get("/fibonacci/{n}", responses=RESPONSES)
async def one_fibonacci(client: Client, n: Index) -> Fibonacci:
    """Compute one number. Requests that come together share tasks."""
    return Fibonacci.of(n, await client.fibonacci(n))


@app.post("/fibonacci", responses=RESPONSES)
async def many_fibonacci(client: Client, wanted: Wanted) -> Fibonaccis:
    """Compute many numbers. If one fails, all of the request does."""
    values = await client.fibonacci_many(wanted.n)
    return Fibonaccis(results=list(map(Fibonacci.of, wanted.n, values)))


# Is it well?


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process lives. It asks nobody: a service whose Redis is away need not be restarted."""
    return {"status": "alive"}


@app.get("/readyz", responses={503: RESPONSES[503]})
async def readyz(request: Request) -> dict[str, Any]:
    """Say whether a worker answers, so that requests are worth sending here. If none does, that is a 503."""
    workers = await request.state.readiness.check()
    return {"status": "ready", "workers": len(workers)}


# The page.

PAGE_HEADERS = {
    # Nothing of another host, nothing inline, and no text that could become markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


app.mount("/static", StaticFiles(directory=STATIC))
