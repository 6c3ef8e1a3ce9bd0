"""Fibonacci numbers by HTTP: ``uvicorn service:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request

from fibo_client import FiboClient, ResultTimeoutError, TransportError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with FiboClient() as client:  # one for the whole service, closed when it ends
        app.state.fibo = client
        yield


app = FastAPI(lifespan=lifespan)


def get_client(request: Request) -> FiboClient:
    return request.app.state.fibo


Client = Annotated[FiboClient, Depends(get_client)]
Numbers = Annotated[list[Annotated[int, Query(ge=0, le=10_000)]], Query(max_length=1000)]


@app.get("/fibonacci")
async def fibonacci(n: Numbers, client: Client) -> list[str]:
    try:
        values = await client.fibonacci_many(n, timeout=5)
    except ResultTimeoutError:
        raise HTTPException(504, "no worker answered in time") from None
    except TransportError:
        raise HTTPException(503, "the queue cannot be reached") from None
    return [str(value) for value in values]  # text: JSON readers elsewhere lose digits above 2**53
