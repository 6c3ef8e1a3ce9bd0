"""Every error that a caller can see, and what becomes of it: RFC 9457 problems, all made here."""

import json
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final, Self

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fibo_client import (
    ClientStateError,
    FiboError,
    ResultDecodeError,
    ResultTimeoutError,
    TaskError,
    TooManyPendingError,
    TransportError,
)

log = logging.getLogger(__name__)

# The first that fits counts. What a caller reads names no task, no host and no cause: those are in the log.
ANSWERS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (ResultTimeoutError, 504, "No worker answered in time."),
    (TransportError, 503, "The queue cannot be reached just now."),
    (TooManyPendingError, 503, "Too much is under way just now."),
    (ClientStateError, 503, "The service is stopping."),
    (TaskError, 502, "The worker could not compute it."),
    (ResultDecodeError, 502, "The worker's answer cannot be read."),
)
RETRY_AFTER: Final = "1"
"""Seconds after which a caller who was told 503 may come again."""

CLIENT_CLOSED_REQUEST: Final = 499
"""What the access log shows of a caller who left, as nginx does. Nobody receives it."""


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> Self:
        return cls(title=HTTPStatus(status).phrase, status=status, detail=detail)

    @classmethod
    def from_error(cls, error: Exception) -> Self:
        for kind, status, detail in ANSWERS:
            if isinstance(error, kind):
                return cls.of(status, detail)
        return cls.of(500, "The service has a fault. It is in its log.")


class ProblemResponse(Response):
    media_type = "application/problem+json"

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        # ASCII: what a stranger sent may be quoted here, and half of a surrogate pair cannot be sent as UTF-8.
        super().__init__(json.dumps(problem.model_dump()), problem.status, headers)


async def on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
    """Bad input is a 400, whoever found it: FastAPI, or this service itself."""
    said = list(dict.fromkeys(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()))
    return ProblemResponse(Problem.of(400, "; ".join(said[:3] + ["..."] * (len(said) > 3))))


async def on_http_error(_request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NO_CONTENT:
        return Response(status_code=error.status_code, headers=headers)
    return ProblemResponse(Problem.of(error.status_code, error.detail), headers)


async def on_failure(request: Request, error: Exception) -> Response:
    problem = Problem.from_error(error)
    log.warning("%s %s: %d: %s", request.method, request.url.path, problem.status, error)
    return ProblemResponse(problem, {"Retry-After": RETRY_AFTER} if problem.status == 503 else None)


async def on_bug(_request: Request, error: Exception) -> Response:
    return ProblemResponse(Problem.from_error(error))  # Starlette raises it once more, for the server's log.


async def on_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    RequestValidationError: on_invalid_request,
    HTTPException: on_http_error,
    FiboError: on_failure,
    ClientDisconnect: on_disconnect,
    Exception: on_bug,
}

_CONTENT: Final = {"application/problem+json": {"schema": Problem.model_json_schema()}}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "Bad input", "content": _CONTENT},
    502: {"description": "The worker failed", "content": _CONTENT},
    503: {"description": "No connection to the queue, or too much under way", "content": _CONTENT},
    504: {"description": "No answer in time", "content": _CONTENT},
    "default": {"description": "Anything else", "content": _CONTENT},  # Else FastAPI documents a 422.
}
