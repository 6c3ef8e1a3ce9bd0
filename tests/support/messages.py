"""Task messages, made from the arguments and options of calls."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fibo_client.celery.protocol.headers import check_headers
from fibo_client.celery.protocol.message import TaskMessage, build_template, encode_arguments
from fibo_client.celery.protocol.moments import encode_moments
from fibo_client.celery.protocol.options import check_name
from fibo_client.errors import PublishError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.brokers.base import Broker

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def build_task(
    task: str = "proj.add",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    task_id: str = "id-1",
    now: datetime = NOW,
    queue: str = "celery",
    origin: str = "gen1@host",
    argsrepr: str | None = None,
    kwargsrepr: str | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: float | datetime | None = None,
    headers: Mapping[str, Any] | None = None,
    **options: Any,
) -> TaskMessage:
    """Check a call and make its message."""
    moments = encode_moments(now, countdown=countdown, eta=eta, expires=expires)
    template = build_template(task, queue=queue, origin=origin, **options)
    encoded = encode_arguments(args, {} if kwargs is None else kwargs, options.get("compression"), argsrepr, kwargsrepr)
    more_headers = {} if headers is None else check_headers(headers)
    return TaskMessage(check_name("task_id", task_id), template, *encoded, moments, more_headers)


def messages(
    *task_ids: str, queue: str = "celery", priority: int = 0, size: int | None = None, arguments: Sequence[Any] = ()
) -> list[TaskMessage]:
    """Make messages that differ in their ids only, optionally with a body of this many bytes."""
    template = build_template("a.task", queue=queue, origin="here", priority=priority)
    encoded = encode_arguments(arguments, {}) if size is None else (bytes(size), "()", "{}")
    return [TaskMessage(task_id, template, *encoded, encode_moments(NOW), {}) for task_id in task_ids]


async def publish(broker: Broker, *task_ids: str, **options: Any) -> None:
    """Publish messages; raise the first error, with the ids of all that failed."""
    wanted = messages(*task_ids, **options)
    if not broker.ready:
        try:
            await broker.prepare()
        except TransportError as error:
            raise PublishError(str(error), task_ids, refused=error.refused) from error
    sender = Outcomes()
    broker.publish(wanted, sender)
    while sum(len(some) for some, _ in sender.told) < len(wanted):
        await sender.news.wait()
        sender.news.clear()
    errors = [error for _, error in sender.told if error is not None]
    if errors:
        failed = {message.id for some, error in sender.told if error is not None for message in some}
        errors[0].task_ids = tuple(task_id for task_id in task_ids if task_id in failed)
        raise errors[0]


class Outcomes:
    """Notes what became of messages. Implements `fibo_client.celery.brokers.base.Sender`."""

    def __init__(self) -> None:
        self.told: list[tuple[Sequence[TaskMessage], Exception | None]] = []
        self.news = asyncio.Event()

    def sent(self, messages) -> None:
        self.told.append((messages, None))
        self.news.set()

    def failed(self, messages, error) -> None:
        self.told.append((messages, error))
        self.news.set()
