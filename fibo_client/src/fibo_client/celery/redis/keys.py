"""The names of Celery's lists, keys and channels in Redis.

Source: ``kombu.transport.redis`` and ``celery.backends.redis``. The broker's prefix is set before every name as it
stands; the result backend's prefix gets an underscore, unless it ends in a separator.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fibo_client.celery.protocol.options import check_name

if TYPE_CHECKING:
    from fibo_client.celery.redis.options import RedisOptions

RESULT: Final = "celery-task-meta-"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerKeys:
    """Names on the broker's side.

    Attributes:
        prefix: Celery's ``global_keyprefix``.
        steps: The priorities that have a list of their own, rising from 0.
        separator: What stands between the parts of a name.
        db: The number of the database, which is part of the control channel's name.
        control_exchange: Celery's setting of that name.
        fanout_prefix: kombu's transport option of that name.
    """

    prefix: str
    steps: tuple[int, ...]
    separator: str
    db: int
    control_exchange: str
    fanout_prefix: bool | str = True

    @classmethod
    def from_options(cls, options: RedisOptions, *, db: int, control_exchange: str) -> BrokerKeys:
        """Make the names that the settings ask for.

        Args:
            options: The settings of Redis.
            db: The number of the database.
            control_exchange: Celery's setting of that name.

        Returns:
            The names.
        """
        return cls(
            prefix=options.broker_prefix,
            steps=options.priority_steps,
            separator=options.priority_separator,
            db=db,
            control_exchange=control_exchange,
            fanout_prefix=options.fanout_prefix,
        )

    def queue(self, name: str, priority: int) -> str:
        """Name the list of a queue for a priority.

        Args:
            name: The queue's name.
            priority: 0 to 9.

        Returns:
            The list that workers look at first for 0 and last for 9.

        Raises:
            MessageError: The name is not valid.
        """
        name = check_name("queue", name)
        step = self.steps[bisect_right(self.steps, priority) - 1]
        return f"{self.prefix}{name}{self.separator}{step}" if step else f"{self.prefix}{name}"

    def queues(self, name: str) -> list[str]:
        """Name all lists of a queue.

        Args:
            name: The queue's name.

        Returns:
            One list a priority step.

        Raises:
            MessageError: The name is not valid.
        """
        return [self.queue(name, step) for step in self.steps]

    @property
    def control_channel(self) -> str:
        """The channel on which all workers listen for remote control."""
        return f"{self.prefix}{fill_fanout_prefix(self.fanout_prefix, self.db)}{self.request_exchange}"

    @property
    def request_exchange(self) -> str:
        """The exchange of remote control commands."""
        return f"{self.control_exchange}.pidbox"

    def reply_routing_key(self, ticket: str) -> str:
        """Make the routing key of the answers to a question. Names inside a message have no prefix.

        Args:
            ticket: The question's.

        Returns:
            The routing key. Behind the exchange without a name, it is the name of a list.
        """
        return f"{ticket}.reply.{self.control_exchange}.pidbox"

    def reply_list(self, ticket: str) -> str:
        """Name the list into which answers are put.

        Args:
            ticket: The question's.

        Returns:
            The list.
        """
        return f"{self.prefix}{self.reply_routing_key(ticket)}"


def fill_fanout_prefix(prefix: bool | str, db: int) -> str:
    """Make the prefix of the control channel's name.

    Args:
        prefix: kombu's transport option ``fanout_prefix``.
        db: The number of the database.

    Returns:
        The prefix.

    Raises:
        LookupError: There is another field in it than ``{db}``.
        ValueError: It is no format string.
    """
    if isinstance(prefix, str):
        return prefix.format(db=db)
    return f"/{db}." if prefix else ""


def result_key_prefix(prefix: str) -> str:
    """Make the prefix of the keys and channels of results; the task's id follows it.

    Args:
        prefix: Celery's ``global_keyprefix`` of the result backend.

    Returns:
        The prefix.
    """
    if prefix and not prefix.endswith((":", "_", "-", ".")):
        prefix = f"{prefix}_"
    return f"{prefix}{RESULT}"
