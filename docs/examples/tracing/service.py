"""A web service that is traced: ``uvicorn service:app``."""

from contextlib import asynccontextmanager

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from telemetry import set_up

from fibo_client import FiboClient
from fibo_client.telemetry.otel import OpenTelemetry

set_up("web")


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with FiboClient(telemetry=OpenTelemetry()) as client:
        app.state.fibo = client
        yield


app = FastAPI(lifespan=lifespan)
FastAPIInstrumentor.instrument_app(app)


@app.get("/sqrt/{value}")
async def sqrt(value: float) -> float:
    return await app.state.fibo.sqrt(value)
