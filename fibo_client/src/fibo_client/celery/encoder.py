"""From calls to task messages: everything is checked, and arguments are turned into bytes, before anything is sent.

A message for a task is mostly the same as the one before. What is the same is checked once and kept as a template.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import uuid
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.brokers.base import ALWAYS_FITS
from fibo_client.celery.protocol.headers import check_headers, join_headers
from fibo_client.celery.protocol.ids import ID_BYTES, cut_ids
from fibo_client.celery.protocol.jsontypes import CELERY_JSON
from fibo_client.celery.protocol.message import TaskMessage, build_template, encode_arguments
from fibo_client.celery.protocol.moments import encode_moments
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.signature import SendOptions
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NESTED, NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.protocol.jsontypes import JSONCodec
    from fibo_client.celery.protocol.message import MessageTemplate
    from fibo_client.celery.signature import Signature
    from fibo_client.telemetry.tracer import SendSpan

BUILD_SLICE: Final = 250
"""The most messages that are built before the event loop gets its turn."""

BUILD_BYTES: Final = 192 * 1024
"""The bytes in bodies after which it gets it sooner: large arguments take long to check."""

MAX_TEMPLATES: Final = 128
"""The most templates that are kept."""

_OPTIONS: Final = frozenset(SendOptions.__annotations__)
_UUIDS: Final = map(str, iter(uuid.uuid4, None))
_NONE: Final[Mapping[str, Any]] = {}

HIDDEN: Final = "<hidden>"
"""What logs show of arguments where they are hidden."""


class Encoder:
    """Makes task messages of calls.

    Args:
        broker: Where they will go.
        queue: The queue of those that name none.
        hide_arguments: Whether logs show no arguments, unless a call or its task says what they show.
        types: The types that arguments may have.

    Attributes:
        queue: See above.
        default_repr: What logs show in place of arguments. None is the arguments.
        types: See above.
    """

    def __init__(
        self, broker: Broker, queue: str, *, hide_arguments: bool = False, types: JSONCodec = CELERY_JSON
    ) -> None:
        self._broker = broker
        self.types: JSONCodec = types
        self.queue: str = queue
        self.default_repr: str | None = HIDDEN if hide_arguments else None
        self._origin = f"gen{os.getpid()}@{socket.gethostname()}"
        # With types: to Python 1 is True, and to a worker it is not.
        self._template = functools.lru_cache(MAX_TEMPLATES, typed=True)(self._build)

    def one(
        self,
        signature: Signature[Any],
        options: SendOptions,
        span: SendSpan,
        defaults: Mapping[str, Any] = _NONE,
    ) -> TaskMessage:
        """Encode one message.

        Args:
            signature: The task with its arguments.
            options: The options of the call, which win over those of the signature.
            span: Is told of the message, and may add headers.
            defaults: Options of which neither says anything.

        Returns:
            The message.

        Raises:
            MessageError: A worker could not take the message.
        """
        call = _Call(self, {**defaults, **signature.options, **options}, span)
        message = call.message(signature, _UUIDS)
        if len(message.body) > ALWAYS_FITS:
            self._broker.check(message)
        return message

    async def many(
        self,
        signatures: Iterable[Signature[Any]],
        options: SendOptions,
        span: SendSpan,
        defaults: Mapping[str, Any] = _NONE,
    ) -> list[TaskMessage]:
        """Encode many messages. The event loop gets its turn now and then.

        Args:
            signatures: The tasks with their arguments.
            options: The options of the call, which win over those of the signatures.
            span: Is told of each message, and may add headers.
            defaults: Options for those of which neither says anything.

        Returns:
            The messages, in order.

        Raises:
            MessageError: A worker could not take one of the messages.
        """
        messages: list[TaskMessage] = []
        async for portion in self.portions(signatures, options, span, defaults):
            messages += portion
        return messages

    async def portions(
        self,
        signatures: Iterable[Signature[Any]],
        options: SendOptions,
        span: SendSpan,
        defaults: Mapping[str, Any] = _NONE,
    ) -> AsyncIterator[list[TaskMessage]]:
        """Encode many messages, as `many`. The event loop gets its turn between two portions.

        Args:
            signatures: As for `many`.
            options: As for `many`.
            span: As for `many`.
            defaults: As for `many`.

        Yields:
            The messages, in order, as many as are made without a pause.

        Raises:
            MessageError: A worker could not take one of the messages, or two have the same id.
        """
        own: Mapping[str, Any] | None = None
        ids = chain.from_iterable(_random_ids())
        portion: list[TaskMessage] = []
        room = BUILD_BYTES
        own_ids: set[str] = set()
        for signature in signatures:
            if room < 0 or len(portion) == BUILD_SLICE:
                yield portion
                portion, room = [], BUILD_BYTES
                await asyncio.sleep(0)
            if signature.options is not own:  # Those of one task have the same.
                own = signature.options
                call = _Call(self, {**defaults, **own, **options}, span)
            if call.task_id is not None:
                if call.task_id in own_ids:
                    raise MessageError(f"two of the messages have the same task_id, {call.task_id}; nothing was sent")
                own_ids.add(call.task_id)
            message = call.message(signature, ids)
            size = len(message.body)
            if size > ALWAYS_FITS:
                self._broker.check(message)
            portion.append(message)
            room -= size
        if portion:
            yield portion

    def template(self, task: str, queue: str, options: Mapping[str, Any]) -> MessageTemplate:
        """Give the template for a task, a queue and options."""
        try:
            return self._template(task, queue, **options)
        except TypeError:  # Some option cannot be hashed: stamps are a dict.
            return self._build(task, queue, **options)

    def _build(self, task: str, queue: str, **options: Any) -> MessageTemplate:
        return build_template(task, queue=queue, origin=self._origin, **options)


class _Call:
    """What the messages of one call have in common.

    Args:
        encoder: Whose call it is.
        options: The options, which it takes for its own.
        span: Gives each message more headers.
    """

    def __init__(self, encoder: Encoder, options: dict[str, Any], span: SendSpan) -> None:
        for name in options:
            if name not in _OPTIONS:
                raise MessageError(
                    f"{name!r} is not an option; the options are: {', '.join(sorted(_OPTIONS))}. "
                    "What a task takes by keyword goes into kwargs: call(name, args, kwargs), or RemoteTask(name)(...)"
                )
        self.task_id: str | None = check_name("task_id", options.pop("task_id")) if "task_id" in options else None
        self._queue = options.pop("queue", encoder.queue)
        self._moments = encode_moments(
            datetime.now(UTC),
            countdown=options.pop("countdown", None),
            eta=options.pop("eta", None),
            expires=options.pop("expires", None),
        )
        argsrepr, kwargsrepr = options.pop("argsrepr", None), options.pop("kwargsrepr", None)
        self._argsrepr: str | None = encoder.default_repr if argsrepr is None else argsrepr
        self._kwargsrepr: str | None = encoder.default_repr if kwargsrepr is None else kwargsrepr
        headers = options.pop("headers", None)
        self._own = {} if headers is None else check_headers(headers)
        self._nested: dict[str, Any] | None = self._own.pop(NESTED, None)
        self._headers: Mapping[str, Any] = self._joined(_NONE) if headers else _NONE
        self._options = options
        self._compression: str | None = options.get("compression")
        self._encoder = encoder
        self._inject = None if span is NOOP_SPAN else span.inject  # Most are not traced.
        self._templates: dict[str, MessageTemplate] = {}
        self._task: object = object()  # The task of the last message; none so far.

    def message(self, signature: Signature[Any], ids: Iterator[str]) -> TaskMessage:
        """Make one message, with the next id unless the options have one."""
        task, kwargs = signature.task, signature.kwargs
        if task is not self._task:
            self._use_template(task)
        task_id = next(ids) if self.task_id is None else self.task_id
        body, argsrepr, kwargsrepr = encode_arguments(
            signature.args,
            {} if kwargs is None else kwargs,
            self._compression,
            self._argsrepr,
            self._kwargsrepr,
            self._encoder.types,
        )
        headers = self._headers
        if self._inject is not None and (added := self._inject(task, task_id)):
            headers = self._joined(added)
        return TaskMessage(task_id, self._template, body, argsrepr, kwargsrepr, self._moments, headers)

    def _joined(self, added: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._own, **join_headers(self._own, self._nested, added)}

    def _use_template(self, task: str) -> None:
        template = self._templates.get(task) if isinstance(task, str) else None
        if template is None:
            template = self._templates[task] = self._encoder.template(task, self._queue, self._options)
        self._task, self._template = task, template


def _random_ids() -> Iterator[list[str]]:
    """Give ids without end, cut from more random bytes at a time the more are taken. None is kept for another call."""
    count = 1
    while True:
        yield cut_ids(os.urandom(count * ID_BYTES))
        count = min(4 * count, BUILD_SLICE)
