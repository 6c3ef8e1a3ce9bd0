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
"""The final states: nothing follows, unless the broker redelivers the task and it runs again."""

EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""The states whose stored result is an exception, as data."""
