"""The service as it would be with Celery's own client: a plain function, which FastAPI calls in a thread.

``uvicorn tests.benchmarks.threaded_service:app``
"""

import os

from celery import Celery
from fastapi import FastAPI, HTTPException

URL = os.environ["CELERY_BROKER_URL"]
FIBONACCI = "fibo.fibonacci"
TIMEOUT = float(os.environ.get("FIBO_SERVICE_TIMEOUT", "30"))

app = FastAPI()
tasks = Celery(broker=URL, backend=URL, set_as_current=False)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


@app.get("/fibonacci/{n}")
def fibonacci(n: int) -> dict[str, object]:
    try:
        value = tasks.send_task(FIBONACCI, (n,)).get(timeout=TIMEOUT)
    except Exception as error:
        raise HTTPException(502) from error  # It is counted as a wrong answer.
    return {"n": n, "value": f"0x{value}"}
