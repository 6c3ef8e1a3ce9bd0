"""From calls to task messages: everything is checked, and arguments are turned into bytes, before anything is sent.

A message for a task is mostly the same as the one before. What is the same is checked once and kept as a template.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.brokers.base import ALWAYS_FITS
from fibo_client.celery.budget import EACH, Budget
from fibo_client.celery.canvas import LINKS
from fibo_client.celery.protocol.headers import check_headers, join_headers
from fibo_client.celery.protocol.ids import ID_BYTES, cut_ids
from fibo_client.celery.protocol.jsontypes import CELERY_JSON
from fibo_client.celery.protocol.message import TaskMessage, build_template, encode_arguments
from fibo_client.celery.protocol.moments import encode_moments
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.protocol.signatures import SignatureTemplate
from fibo_client.celery.signature import check_option_names
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NESTED, NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.protocol.jsontypes import JSONCodec
    from fibo_client.celery.protocol.message import MessageTemplate
    from fibo_client.celery.protocol.moments import Moments
    from fibo_client.celery.signature import SendOptions, Signature
    from fibo_client.telemetry.tracer import SendSpan

LARGE: Final = 4 * 1024
"""After a message with so many bytes in its body, there is a look at the clock: large arguments take long to check."""

MOMENT: Final = 0.05
"""Seconds for which calls with the same timeout expire at the same time. The margin of their expiry is much longer."""

_IDS: Final = 256

MAX_TEMPLATES: Final = 128
"""The most templates that are kept."""

_NONE: Final[Mapping[str, Any]] = {}

NOT_SENT: Final = (*LINKS, "task_id")
"""Options of a step that are part of the plan."""

_WRITTEN: Final = frozenset(
    {"priority", "time_limit", "soft_time_limit", "ignore_result", "shadow", "compression", "root_id", "parent_id"}
)
"""Options that a worker takes as they are."""

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
        new_id: Makes an id.
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
        self._prepared = functools.lru_cache(MAX_TEMPLATES, typed=True)(self._prepare)
        self._moments: tuple[float, float, Moments] | None = None
        # Ids are cut from much randomness at a time. A forked process may not use the client, so it repeats none.
        self._ids = chain.from_iterable(iter(lambda: cut_ids(os.urandom(_IDS * ID_BYTES)), None))
        self.new_id: Callable[[], str] = partial(next, self._ids)

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
        call = self.call({**defaults, **signature.options, **options}, span)
        message = call.message(signature, call.task_id or next(self._ids))
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
        own_ids: set[str] | None = None,
    ) -> AsyncIterator[list[TaskMessage]]:
        """Encode many messages, as `many`. The event loop gets its turn between two portions.

        Args:
            signatures: As for `many`.
            options: As for `many`.
            span: As for `many`.
            defaults: As for `many`.
            own_ids: The ids that the caller gave to others that are sent with them.

        Yields:
            The messages, in order, as many as are made without a pause.

        Raises:
            MessageError: A worker could not take one of the messages, or two have the same id.
        """
        own: Mapping[str, Any] | None = None
        portion: list[TaskMessage] = []
        budget, weight = Budget(), 1
        own_ids = set() if own_ids is None else own_ids
        for signature in signatures:
            if budget.is_spent(weight):
                yield portion
                portion = []
                await budget.pause()
            if signature.options is not own:  # Those of one task have the same.
                own = signature.options
                call = self.call({**defaults, **own, **options}, span)
            if call.task_id is not None:
                if call.task_id in own_ids:
                    raise MessageError(f"two of the messages have the same task_id, {call.task_id}; nothing was sent")
                own_ids.add(call.task_id)
            message = call.message(signature, call.task_id or next(self._ids))
            size = len(message.body)
            weight = EACH if size > LARGE else 1
            if size > ALWAYS_FITS:
                self._broker.check(message)
            portion.append(message)
        if portion:
            yield portion

    def later(self, signature: Signature[Any], given: Mapping[str, Any]) -> Later:
        """Prepare signatures that a worker sends later.

        Args:
            signature: One of them.
            given: Options of which it says nothing.

        Returns:
            What those of the same task with the same options have in common.

        Raises:
            MessageError: A worker could not read their messages.
        """
        options = {**given, **signature.options}
        for name in NOT_SENT:
            options.pop(name, None)
        countdown = options.pop("countdown", None)
        moments = self._when(None, options.pop("eta", None), options.pop("expires", None))
        prepared = self._prepared_for(dict(options))
        template = prepared.template(signature.task)
        written = {
            **{name: value for name, value in options.items() if name in _WRITTEN},
            "queue": template.queue,
            "countdown": countdown,
            "eta": moments.eta,
            "expires": moments.expires,
            "headers": dict(prepared.headers) or None,
            "argsrepr": prepared.argsrepr,
            "kwargsrepr": prepared.kwargsrepr,
            "stamped_headers": template.headers["stamped_headers"],
            **(template.headers["stamps"] or {}),
        }
        return Later(prepared, template, {name: value for name, value in written.items() if value is not None})

    def check(self, message: TaskMessage) -> None:
        """Raise MessageError if a message is too large for the broker."""
        if len(message.body) > ALWAYS_FITS:
            self._broker.check(message)

    def template(self, task: str, queue: str, options: Mapping[str, Any]) -> MessageTemplate:
        """Give the template for a task, a queue and options."""
        try:
            return self._template(task, queue, **options)
        except TypeError:  # Some option cannot be hashed: stamps are a dict.
            return self._build(task, queue, **options)

    def _build(self, task: str, queue: str, **options: Any) -> MessageTemplate:
        return build_template(task, queue=queue, origin=self._origin, **options)

    def call(self, options: dict[str, Any], span: SendSpan) -> Call:
        """Check the options of a call, which it takes for its own."""
        task_id = check_name("task_id", options.pop("task_id")) if "task_id" in options else None
        moments = self._when(options.pop("countdown", None), options.pop("eta", None), options.pop("expires", None))
        # Most are not traced.
        return Call(self._prepared_for(options), task_id, moments, None if span is NOOP_SPAN else span.inject)

    def _prepared_for(self, options: dict[str, Any]) -> _Prepared:
        try:
            return self._prepared(**options)
        except TypeError:  # Some option cannot be hashed: headers are a dict.
            return self._prepare(**options)

    def _prepare(self, **options: Any) -> _Prepared:
        return _Prepared(self, options)

    def _when(self, countdown: float | None, eta: datetime | None, expires: float | datetime | None) -> Moments:
        """Say when a task may run. What calls of one moment have in common is made once: it takes long."""
        if countdown is not None or eta is not None or type(expires) is not float:
            return encode_moments(datetime.now(UTC), countdown=countdown, eta=eta, expires=expires)
        now, last = time.monotonic(), self._moments
        if last is not None and last[0] == expires and now < last[1]:
            return last[2]
        moments = encode_moments(datetime.now(UTC), expires=expires)
        self._moments = (expires, now + MOMENT, moments)
        return moments


class Later:
    """What the signatures of one task with the same options, which a worker sends later, have in common.

    Args:
        prepared: What calls with these options have in common.
        template: The template of their messages.
        options: Their options as their worker reads them.

    Attributes:
        signature: The template of the signatures.
        queue: The queue that they go to.
        ignored: Whether their results are ignored. None is as the task is declared.
        joined: Joins a tracer's headers with the caller's.
    """

    __slots__ = ("ignored", "joined", "queue", "signature")

    def __init__(self, prepared: _Prepared, template: MessageTemplate, options: Mapping[str, Any]) -> None:
        self.signature: SignatureTemplate = SignatureTemplate(template.headers["task"], options)
        self.queue: str = template.queue
        self.ignored: bool | None = template.headers["ignore_result"]
        self.joined: Callable[[Mapping[str, Any]], dict[str, Any]] = prepared.joined


class _Prepared:
    """What calls with the same options have in common.

    Args:
        encoder: Whose calls they are.
        options: The options, which it takes for its own, without the id, and when the tasks may run.
    """

    def __init__(self, encoder: Encoder, options: dict[str, Any]) -> None:
        check_option_names(options)
        if any(link in options for link in LINKS):
            raise MessageError(
                "link and link_error are options of one task, which `send` or `call` takes alone: "
                "send(add(2, 3).with_options(link=...))"
            )
        self._queue = options.pop("queue", encoder.queue)
        argsrepr, kwargsrepr = options.pop("argsrepr", None), options.pop("kwargsrepr", None)
        self.argsrepr: str | None = encoder.default_repr if argsrepr is None else argsrepr
        self.kwargsrepr: str | None = encoder.default_repr if kwargsrepr is None else kwargsrepr
        headers = options.pop("headers", None)
        self._own = {} if headers is None else check_headers(headers)
        self._nested: dict[str, Any] | None = self._own.pop(NESTED, None)
        self.headers: Mapping[str, Any] = self.joined(_NONE) if headers else _NONE
        self._options = options
        self.compression: str | None = options.get("compression")
        self._encoder = encoder
        self.types: JSONCodec = encoder.types
        self._templates: dict[str, MessageTemplate] = {}

    def joined(self, added: Mapping[str, Any]) -> dict[str, Any]:
        """Join a tracer's headers with the caller's."""
        return {**self._own, **join_headers(self._own, self._nested, added)}

    def template(self, task: str) -> MessageTemplate:
        """Give the template for a task."""
        template = self._templates.get(task) if isinstance(task, str) else None
        if template is None:
            template = self._encoder.template(task, self._queue, self._options)
            if len(self._templates) < MAX_TEMPLATES:
                self._templates[task] = template
        return template


class Call:
    """What the messages of one call have in common.

    Attributes:
        task_id: The id that the options have, for the only message.
    """

    def __init__(
        self,
        prepared: _Prepared,
        task_id: str | None,
        moments: Moments,
        inject: Callable[[str, str], Mapping[str, Any]] | None,
    ) -> None:
        self.task_id: str | None = task_id
        self._prepared = prepared
        self._moments = moments
        self._inject = inject
        self._task: object = self  # The task of the last message; none so far.
        self._template: MessageTemplate

    def message(
        self,
        signature: Signature[Any],
        task_id: str,
        group: tuple[str, int] | None = None,
        root: str | None = None,
        embed: str | None = None,
    ) -> TaskMessage:
        """Make one message."""
        prepared = self._prepared
        task, kwargs = signature.task, signature.kwargs
        if task is not self._task:
            self._template, self._task = prepared.template(task), task
        body, argsrepr, kwargsrepr = encode_arguments(
            signature.args,
            {} if kwargs is None else kwargs,
            prepared.compression,
            prepared.argsrepr,
            prepared.kwargsrepr,
            prepared.types,
            embed,
        )
        headers = prepared.headers
        if self._inject is not None and (added := self._inject(task, task_id)):
            headers = prepared.joined(added)
        return TaskMessage(task_id, self._template, body, argsrepr, kwargsrepr, self._moments, headers, group, root)
