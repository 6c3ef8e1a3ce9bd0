"""Check whether a worker answers, and if not, say why."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from celery.app.control import Control
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox

from fibo_worker.app import create_app
from fibo_worker.readiness import ReadinessFile

if TYPE_CHECKING:
    from kombu.connection import Connection

    from fibo_worker.settings import WorkerSettings

__all__ = ["UnhealthyError", "check"]


class _Mailbox(Mailbox):
    """Has the replies sent to a queue by its name.

    By default, Celery binds that queue to an exchange. If this process is killed, the binding stays in Redis.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.reply_exchange = Exchange("", type="direct")

    @property
    def oid(self) -> str:
        return f"{super().oid}.reply.celery.pidbox"

    def get_reply_queue(self) -> Queue:
        return Queue(self.oid, exchange=self.reply_exchange, routing_key=self.oid, durable=False, auto_delete=True)


class _Control(Control):
    Mailbox = _Mailbox


class UnhealthyError(Exception):
    """No worker answered. The message says what is wrong."""


HINT: Final = "CELERY_BROKER_URL says where Redis is; `fibo-worker dev` starts one to try."
"""The hint for a Redis that cannot be reached."""


def masked_url(connection: Connection, settings: WorkerSettings) -> str:
    """Return a broker's URL with asterisks for its password, if it has one."""
    url: str = connection.as_uri()
    # Kombu writes asterisks even without a password.
    return url if "@" in settings.broker_url else url.replace("://:**@", "://")


def check(settings: WorkerSettings, *, timeout: float = 3.0, node: str | None = None) -> list[str]:
    """Ping the workers of a broker.

    Args:
        settings: The settings, with the broker's URL.
        timeout: The most seconds to wait, for the connection and the answer together.
        node: The name of the node that must answer. None is any.

    Returns:
        The name of the node that answered first.

    Raises:
        UnhealthyError: The broker cannot be reached, or no worker answered.
    """
    app = create_app(settings)
    app.control_cls = _Control
    app.conf.broker_transport_options |= {"socket_connect_timeout": timeout, "socket_timeout": timeout}
    deadline = time.monotonic() + timeout
    with app.connection_for_read() as connection:
        url = masked_url(connection, settings)
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=timeout)
            replies = app.control.ping(
                connection=connection,
                timeout=max(deadline - time.monotonic(), 0.1),
                limit=1,
                destination=None if node is None else [node],
            )
        except (OperationalError, OSError, *connection.connection_errors) as error:
            raise UnhealthyError(f"the broker {url} cannot be reached: {error} {HINT}") from error
    if not replies:
        if settings.readiness_file and (problem := ReadinessFile(settings.readiness_file).problem(max_age=math.inf)):
            raise UnhealthyError(problem)
        who = "no worker" if node is None else f"no worker named {node}"
        raise UnhealthyError(
            f"the broker {url} can be reached, but {who} answered in {timeout:g} seconds. "
            "Start one with: fibo-worker start"
        )
    return [name for reply in replies for name in reply]
