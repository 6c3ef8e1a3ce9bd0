"""What becomes of errors: those of the client are `FiboMiddleware`'s, and all others are problem documents, too."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from fibo_client.asgi import Problem


def response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    return Response(problem.to_json(), problem.status, headers, "application/problem+json")


async def on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
    """Bad input is a 400, whoever found it: FastAPI, or this service itself."""
    said = list(dict.fromkeys(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()))
    return response(Problem.of(400, "; ".join(said[:3] + ["..."] * (len(said) > 3))))


async def on_http_error(_request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NO_CONTENT:
        return Response(status_code=error.status_code, headers=headers)
    return response(Problem.of(error.status_code, error.detail), headers)


async def on_bug(_request: Request, error: Exception) -> Response:
    return response(Problem.from_error(error))  # Starlette raises it once more, for the server's log.


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    RequestValidationError: on_invalid_request,
    HTTPException: on_http_error,
    Exception: on_bug,
}

_CONTENT: Final = {"application/problem+json": {"schema": TypeAdapter(Problem).json_schema()}}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "Bad input", "content": _CONTENT},
    502: {"description": "The worker failed", "content": _CONTENT},
    503: {"description": "No connection to the queue, or too much under way", "content": _CONTENT},
    504: {"description": "No answer in time", "content": _CONTENT},
    "default": {"description": "Anything else", "content": _CONTENT},  # Else FastAPI documents a 422.
}
