"""An asyncio client for Celery workers over Redis, without Celery installed.

`FiboClient` computes Fibonacci numbers on a worker of the package fibo-worker. `fibo_client.celery.CeleryClient`,
underneath, calls any task of any Celery worker.
"""

import logging as _logging  # which is not to be found in here

from fibo_client._version import __version__
from fibo_client.celery.config import UNSET
from fibo_client.celery.result import AsyncResult
from fibo_client.client import FiboClient
from fibo_client.config import FiboConfig
from fibo_client.contract import FIBO_TASK, FIBONACCI, FIBONACCI_CHUNK, SQRT_TASK
from fibo_client.errors import (
    ClientStateError,
    ConfigError,
    FiboError,
    MessageError,
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
    TooManyConnectionsError,
    TooManyInFlightError,
    TransportError,
)
from fibo_client.streaming import Stream

__all__ = [
    "FIBONACCI",
    "FIBONACCI_CHUNK",
    "FIBO_TASK",
    "SQRT_TASK",
    "UNSET",
    "AsyncResult",
    "ClientStateError",
    "ConfigError",
    "FiboClient",
    "FiboConfig",
    "FiboError",
    "MessageError",
    "PublishError",
    "PublishUnknownError",
    "ReadError",
    "ResultDecodeError",
    "ResultInflatesError",
    "ResultTimeoutError",
    "ResultTooDeepError",
    "ResultTooLargeError",
    "Stream",
    "TaskError",
    "TaskFailedError",
    "TaskRevokedError",
    "TooManyConnectionsError",
    "TooManyInFlightError",
    "TransportError",
    "__version__",
]

_logging.getLogger("fibo_client").addHandler(_logging.NullHandler())
