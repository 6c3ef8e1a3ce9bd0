"""A web service that Sentry watches: ``uvicorn service:app``."""

from contextlib import asynccontextmanager

import sentry_sdk
from fastapi import FastAPI

from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.telemetry.sentry import Sentry

sentry_sdk.init(traces_sample_rate=1.0)  # SENTRY_DSN says where to
divide = RemoteTask[[float, float], float]("proj.tasks.divide")


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with CeleryClient(queue="proj", telemetry=Sentry()) as client:
        app.state.celery = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/divide/{x}/{y}")
async def quotient(x: float, y: float) -> float:
    return await app.state.celery.call(divide(x, y))
