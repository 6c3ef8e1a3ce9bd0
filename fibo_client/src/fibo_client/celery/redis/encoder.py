"""From task messages to elements of Redis lists. What messages have in common is encoded once."""

from __future__ import annotations

import itertools
import os
import uuid
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.protocol.ids import ID_BYTES, cut_ids
from fibo_client.celery.redis import envelope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.protocol.message import MessageTemplate, TaskMessage
    from fibo_client.celery.protocol.moments import Moments
    from fibo_client.celery.redis.keys import BrokerKeys

SURE_BYTES: Final = envelope.MAX_BYTES // 4
"""A body of fewer bytes fits into an element with any headers."""


class RedisEncoder:
    """Encodes the messages of one broker.

    Args:
        keys: The names of the broker's lists.
    """

    def __init__(self, keys: BrokerKeys) -> None:
        self._keys = keys
        self._placeholders = cut_ids(os.urandom(envelope.PLACEHOLDERS * ID_BYTES))  # A secret: no message may hold one.
        # Workers keep unacknowledged messages by their tags, which must be unique: UUIDs that end in a count.
        self._tag_prefix = str(uuid.uuid4())[:24]
        self._tags = itertools.count(1)
        self._template: MessageTemplate | None = None
        self._moments: Moments | None = None
        self._more_headers: Mapping[str, Any] | None = None
        self._key: str
        self._task_template: envelope.TaskTemplate
        self._flow_template: envelope.TaskTemplate | None = None
        self._moment_texts: envelope.MomentTexts
        self._headers_text: str

    def check(self, message: TaskMessage) -> None:
        """Raise MessageError if a message is too large for Redis."""
        envelope.encode_task(message, message.id)

    def encode_many(self, messages: Sequence[TaskMessage]) -> list[tuple[str, bytes]]:
        """Encode messages.

        Args:
            messages: The messages.

        Returns:
            For each message, the name of its list, and the element.

        Raises:
            MessageError: One is too large.
        """
        encoded = []
        for message in messages:
            if message.template is not self._template:
                self._use_template(message.template)
            if message.moments is not self._moments:
                self._moments = message.moments
                self._moment_texts = envelope.moment_texts(message.moments)
            if message.more_headers is not self._more_headers:
                self._more_headers = message.more_headers
                self._headers_text = envelope.headers_text(message.more_headers)
            tag = f"{self._tag_prefix}{next(self._tags):012x}"
            if message.group is None and message.root is None:
                element = self._task_template.fill(message, tag, self._moment_texts, self._headers_text)
            else:
                filling = self._flow_template or self._use_flow_template(message.template)
                places = envelope.flow_texts(message)
                element = filling.fill(message, tag, self._moment_texts, self._headers_text, places)
            encoded.append((self._key, element))
        return encoded

    def _use_template(self, template: MessageTemplate) -> None:
        prepared = template.prepared.get(self)
        if prepared is None:
            key = self._keys.queue(template.queue, template.priority)
            prepared = template.prepared[self] = key, envelope.TaskTemplate(template, self._placeholders)
        self._template = template
        self._key, self._task_template = prepared
        self._flow_template = None

    def _use_flow_template(self, template: MessageTemplate) -> envelope.TaskTemplate:
        flow_template: envelope.TaskTemplate | None = template.prepared.get((self, "flow"))
        if flow_template is None:
            flow_template = envelope.TaskTemplate(template, self._placeholders, in_flow=True)
            template.prepared[self, "flow"] = flow_template
        self._flow_template = flow_template
        return flow_template
