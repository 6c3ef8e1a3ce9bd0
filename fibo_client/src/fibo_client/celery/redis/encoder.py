"""From task messages to elements of Redis lists. What messages have in common is encoded once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from fibo_client.celery.protocol.ids import ID_BYTES, cut_ids
from fibo_client.celery.redis import envelope

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fibo_client.celery.protocol.message import MessageTemplate, Moments, TaskMessage
    from fibo_client.celery.redis.keys import BrokerKeys

_SURE: Final = envelope.MAX_BYTES // 4
"""A body of fewer bytes fits into an element with any headers."""


class RedisEncoder:
    """Encodes the messages of one broker.

    Args:
        keys: The names of the broker's lists.
    """

    def __init__(self, keys: BrokerKeys) -> None:
        self._keys = keys
        self._placeholders = cut_ids(os.urandom(envelope.PLACEHOLDERS * ID_BYTES))  # A secret: no message may hold one.
        self._last: tuple[MessageTemplate, Moments] | None = None
        self._key = ""
        self._dated: envelope.DatedTemplate

    def check(self, message: TaskMessage) -> None:
        """Raise MessageError if a message is too large for Redis."""
        if len(message.body) >= _SURE:
            envelope.encode_task(message, message.id)

    def encode_many(self, messages: Sequence[TaskMessage]) -> Iterator[tuple[str, bytes]]:
        """Encode messages.

        Args:
            messages: The messages.

        Yields:
            For each message, the name of its list, and the element.

        Raises:
            MessageError: One is too large.
        """
        tags = cut_ids(os.urandom(len(messages) * ID_BYTES))
        for (task_id, template, arguments, moments, more_headers), tag in zip(messages, tags, strict=True):
            if self._last is None or self._last[0] is not template or self._last[1] is not moments:
                self._turn_to(template, moments)
            yield self._key, self._dated.fill(task_id, tag, arguments, more_headers)

    def _turn_to(self, template: MessageTemplate, moments: Moments) -> None:
        prepared = template.prepared.get(self)
        if prepared is None:
            key = self._keys.queue(template.queue, template.priority)
            prepared = template.prepared[self] = key, envelope.TaskTemplate(template, self._placeholders)
        self._key, task_template = prepared
        self._dated = task_template.dated(moments)
        self._last = template, moments
