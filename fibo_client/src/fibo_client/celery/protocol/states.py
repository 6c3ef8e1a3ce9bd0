"""The states of a task, as Celery names them. Source: ``celery.states``."""

from __future__ import annotations

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
RETRY = "RETRY"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
"""The task is over; nothing more will come, save a redelivered run of the same task."""

EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""The stored result is an exception, as data."""
