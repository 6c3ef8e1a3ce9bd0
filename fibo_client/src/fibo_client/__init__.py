"""An asyncio client for Celery workers over Redis, without Celery installed.

`FiboClient` computes Fibonacci numbers on a worker of the package fibo-worker. `fibo_client.celery.CeleryClient`,
underneath, calls any task of any Celery worker.

What needs asyncio is imported when it is first asked for, and redis-py when a client is made for Redis: the command
line must not wait for them to show its help.
"""

# With names that are not to be found in here.
import importlib as _importlib
import typing as _typing

from fibo_client._version import __version__
from fibo_client.errors import (
    ChunkRetriedError,
    ClientStateError,
    ConfigError,
    FiboError,
    MessageError,
    NotReadyError,
    PublishError,
    PublishUnknownError,
    ReadError,
    ResultDecodeError,
    ResultInflatesError,
    ResultTimeoutError,
    ResultTooDeepError,
    ResultTooLargeError,
    TaskError,
    TaskFailedError,
    TaskRevokedError,
    TooManyPendingError,
    TransportError,
)

if _typing.TYPE_CHECKING:
    from fibo_client.celery.config import UNSET
    from fibo_client.celery.redis.options import RedisOptions
    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.stream import Stream
    from fibo_client.client import FiboClient
    from fibo_client.config import FiboConfig
    from fibo_client.contract import FIBO_TASK, FIBONACCI, FIBONACCI_CHUNK, SQRT_TASK
    from fibo_client.loop_local import LoopLocal

__all__ = [
    "FIBONACCI",
    "FIBONACCI_CHUNK",
    "FIBO_TASK",
    "SQRT_TASK",
    "UNSET",
    "AsyncResult",
    "ChunkRetriedError",
    "ClientStateError",
    "ConfigError",
    "FiboClient",
    "FiboConfig",
    "FiboError",
    "LoopLocal",
    "MessageError",
    "NotReadyError",
    "PublishError",
    "PublishUnknownError",
    "ReadError",
    "RedisOptions",
    "ResultDecodeError",
    "ResultInflatesError",
    "ResultTimeoutError",
    "ResultTooDeepError",
    "ResultTooLargeError",
    "Stream",
    "TaskError",
    "TaskFailedError",
    "TaskRevokedError",
    "TooManyPendingError",
    "TransportError",
    "__version__",
]

_HOMES = {
    "FIBONACCI": "contract",
    "FIBONACCI_CHUNK": "contract",
    "FIBO_TASK": "contract",
    "SQRT_TASK": "contract",
    "UNSET": "celery.config",
    "AsyncResult": "celery.result",
    "FiboClient": "client",
    "FiboConfig": "config",
    "LoopLocal": "loop_local",
    "RedisOptions": "celery.redis.options",
    "Stream": "celery.stream",
}


if not _typing.TYPE_CHECKING:  # or a type checker would take every name for one that there is

    def __getattr__(name: str) -> object:
        if name == "celery":  # `import fibo_client` alone has always brought it
            return _importlib.import_module("fibo_client.celery")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_importlib.import_module(f"fibo_client.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
