"""A service in front of the shop's Celery app: ``uvicorn shop.service:app``. It needs nothing of the worker's code."""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict
from uuid import UUID

from fastapi import Depends, FastAPI, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from fibo_client import FiboError, Stream, TaskFailedError
from fibo_client.asgi import FiboMiddleware, Problem, Readiness
from fibo_client.celery import AsyncResult, CeleryClient, TaskMeta

from . import remote

TIMEOUT = float(os.environ.get("SHOP_TIMEOUT", "10"))
"""Seconds that a request may take."""
PATIENCE = 60.0
"""Seconds that a report may take, and that a task is followed."""


class State(TypedDict):
    celery: CeleryClient
    readiness: Readiness


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    async with CeleryClient(timeout=TIMEOUT) as celery:  # one for the whole service
        yield {"celery": celery, "readiness": Readiness(celery)}


async def get_celery(request: Request) -> CeleryClient:
    celery: CeleryClient = request.state.celery
    return celery


Celery = Annotated[CeleryClient, Depends(get_celery)]
Order = Annotated[int, InPath(ge=1, le=10**9)]

app = FastAPI(title="Shop", lifespan=lifespan, max_body_size=64 * 1024)
app.add_middleware(FiboMiddleware)


# Work that is started, and goes on whoever leaves.


class Started(BaseModel):
    id: UUID


class Picture(BaseModel):
    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w-]+$")
    steps: int = Field(default=10, ge=1, le=100)


def started(result: AsyncResult[Any], response: Response) -> Started:
    response.headers["Location"] = f"/tasks/{result.id}"
    return Started(id=UUID(result.id))


@app.post("/orders/{order}/mail", status_code=202)
async def send_mail(celery: Celery, order: Order, response: Response) -> Started:
    return started(await celery.send(remote.mail(order)), response)


@app.post("/pictures", status_code=202)
async def resize(celery: Celery, picture: Picture, response: Response) -> Started:
    return started(await celery.send(remote.resize(picture.name, picture.steps)), response)


# What has become of it. Whoever knows an id may ask: they cannot be guessed.


class TaskState(BaseModel):
    """The state of a task. PENDING may also mean that there is none of that id."""

    state: str
    progress: dict[str, int] | None = None
    result: Any = None

    @classmethod
    def of(cls, meta: TaskMeta) -> Self:
        return cls(
            state=meta.state,
            progress=meta.result if meta.state == "PROGRESS" else None,
            result=meta.result if meta.state == "SUCCESS" else None,
        )


@app.get("/tasks/{task_id}")
async def look(celery: Celery, task_id: UUID) -> TaskState:
    return TaskState.of(await celery.result(str(task_id)).meta())


@app.get("/tasks/{task_id}/events", response_class=EventSourceResponse)
async def follow(celery: Celery, task_id: UUID) -> AsyncIterator[ServerSentEvent]:
    """Send an event `state` for each new state, and `done` with the last one; or `problem`."""
    try:
        async with aclosing(celery.result(str(task_id)).updates(timeout=PATIENCE)) as metas:
            async for meta in metas:
                yield ServerSentEvent(event="done" if meta.ready else "state", data=TaskState.of(meta))
    except FiboError as error:
        yield ServerSentEvent(event="problem", data=Problem.from_error(error).to_dict())


# Work that belongs to its caller: who leaves ends it.


@app.get("/reports/{year}")
async def report(celery: Celery, year: Annotated[int, InPath(ge=2000, le=2100)]) -> str:
    return await celery.call(remote.report(year), timeout=PATIENCE, terminate_on_cancel=True)


class Invoice(BaseModel):
    number: UUID
    due: date
    total: Decimal


@app.get("/invoices/{order}")
async def invoice(celery: Celery, order: Order) -> Invoice:
    return Invoice.model_validate(await celery.call(remote.invoice(order)))


class Reservation(BaseModel):
    item: str = Field(max_length=100)
    count: int = Field(ge=1, le=1000)


@app.post("/reservations", responses={409: {"description": "There are not enough left"}})
async def reserve(celery: Celery, wanted: Reservation) -> Response:
    try:
        left = await celery.call(remote.reserve(wanted.item, wanted.count))
    except TaskFailedError as error:
        if error.exc_type != "OutOfStockError":
            raise
        problem = Problem.of(409, f"There are {error.exc_args[1]} left.")
        return Response(problem.to_json(), problem.status, media_type="application/problem+json")
    return Response(f'{{"left": {left}}}', media_type="application/json")


# Many at once, each as soon as it is finished.


class Items(BaseModel):
    items: list[Annotated[str, Field(max_length=100)]] = Field(min_length=1, max_length=500)


class Price(BaseModel):
    item: str
    price: Decimal | None = None
    problem: str | None = None


async def open_prices(celery: Celery, wanted: Items) -> AsyncIterator[Stream[str, Decimal | Exception]]:
    async with celery.stream(remote.price, wanted.items, max_in_flight=100, return_exceptions=True) as prices:
        yield prices


@app.post("/prices")
async def price(prices: Annotated[Stream[str, Decimal | Exception], Depends(open_prices)]) -> AsyncIterator[Price]:
    """Send a line of JSON for each item. A slow reader slows the work down."""
    async for item, answer in prices:
        if isinstance(answer, Exception):
            yield Price(item=item, problem=Problem.from_error(answer).detail)
        else:
            yield Price(item=item, price=answer)


# Is it well?


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


@app.get("/readyz")
async def readyz(request: Request) -> dict[str, Any]:
    workers = await request.state.readiness.check()
    return {"status": "ready", "workers": len(workers)}


# The page.

HERE = Path(__file__).parent
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(HERE / "static" / "index.html", headers=PAGE_HEADERS)


app.mount("/static", StaticFiles(directory=HERE / "static"))
app.mount("/style", StaticFiles(directory=HERE.parent / "service" / "static"))  # as the other example's
