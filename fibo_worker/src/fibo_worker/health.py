"""Whether a worker answers, and if not, why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from kombu.exceptions import OperationalError

from fibo_worker.app import create_app

if TYPE_CHECKING:
    from kombu.connection import Connection

    from fibo_worker.settings import WorkerSettings

__all__ = ["UnhealthyError", "check"]


class UnhealthyError(Exception):
    """No worker answered. The message says what is wrong."""


HINT: Final = "CELERY_BROKER_URL says where Redis is; `fibo-worker dev` starts one to try."
"""What to do if Redis cannot be reached."""


def masked_url(connection: Connection, settings: WorkerSettings) -> str:
    """Give a broker's URL without the password.

    Args:
        connection: The broker.
        settings: The settings of the connection.

    Returns:
        Its URL, with asterisks for a password if there is one.
    """
    url: str = connection.as_uri()
    return url if "@" in settings.broker_url else url.replace("://:**@", "://")  # Kombu always puts them.


def check(settings: WorkerSettings, *, timeout: float = 3.0, node: str | None = None) -> list[str]:
    """Ask for a worker.

    Args:
        settings: Where the broker is.
        timeout: The most seconds to wait, for the connection and the answer together.
        node: The name of the node that must answer. None is any.

    Returns:
        The name of the node that answered first.

    Raises:
        UnhealthyError: The broker cannot be reached, or no worker answered.
    """
    app = create_app(settings)
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
        who = "no worker" if node is None else f"no worker named {node}"
        raise UnhealthyError(
            f"the broker {url} can be reached, but {who} answered in {timeout:g} seconds. "
            "Start one with: fibo-worker start"
        )
    return [name for reply in replies for name in reply]
