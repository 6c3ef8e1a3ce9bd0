"""A channel that takes messages by a script, as long as there are more, and acknowledges others by the same one.

The queue is empty most of the time, and then the worker waits by kombu's BRPOP, which no script can do.
"""

from __future__ import annotations

from collections import deque
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from fibo_worker.guard.connections import BoundedChannel, RefusedError
from fibo_worker.guard.qos import LossCountingQoS
from fibo_worker.guard.scripts import of_its_kind
from fibo_worker.guard.unacked import FETCH, Fetch, Taken

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FetchingChannel"]

_MOST: Final = 10
"""The most messages that are taken at once."""


class FetchingChannel(BoundedChannel):
    """A channel that takes several messages at once, which are recorded as taken in the same step."""

    has_more: bool = False
    """Whether there were more messages when the last one was taken."""
    _takes = True
    """Whether all consumers of this channel acknowledge."""
    _fetch: Fetch | None = None
    """What was asked for, as long as its reply was not read."""

    @property
    def defers(self) -> bool:
        """Whether acknowledgements may wait for the end of this turn of the event loop."""
        # With another pool, the event loop stands still while a task runs, or a task ends beside it.
        guard, cycle = self.guard, self.connection.cycle if self.connection else None
        return guard.pool == "prefork" and not guard.stopping and getattr(cycle, "in_event_loop", False)

    @property
    def all_recorded(self) -> bool:
        """Whether Redis has recorded all that this channel has taken."""
        return not isinstance(self._qos, LossCountingQoS) or self._qos.all_recorded

    def end_turn(self) -> None:
        """Send the acknowledgements that did not leave with the question for messages."""
        if isinstance(self._qos, LossCountingQoS) and not self.closed:
            self._qos.flush()

    def drop_idle_connections(self) -> None:
        """Drop those connections of this channel that nobody uses at the moment."""
        super().drop_idle_connections()
        if isinstance(self._qos, LossCountingQoS):
            self._qos.drop_connection()

    def close(self) -> None:
        """Close the channel. What was asked for and did not arrive is another channel's to see to."""
        try:
            super().close()
        finally:
            self._forget_fetch()

    def lists(self) -> list[str]:
        """Return the keys of the lists that this channel takes messages from, in order."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        return [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue, as kombu does. What is not acknowledged is not taken by the script."""
        self._takes = self._takes and not no_ack
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _start_fetch(self) -> None:
        """Ask for messages, which are recorded as taken in the same step, and acknowledge others."""
        lists = self.lists()
        # With several queues, kombu asks anew after each message, so that no queue has to wait for another.
        most = min(self.qos.can_consume_max_estimate() or 1, _MOST) if len(self.active_queues) == 1 else 1
        acks = self.qos.waiting() if self.all_recorded else ()
        self._fetch = Fetch(acks, lists, self.qos.tags.make(most), self._starting(most))
        keys, arguments = self.qos.keys.fetch(self._fetch)
        connection = self._in_poll = self.client.connection
        self._sent_at = self._brpop_sent_at = monotonic()
        connection.send_command("EVALSHA", FETCH.sha, len(keys), *keys, *arguments)

    def _starting(self, most: int) -> int:
        """Return how many of so many messages are taken for processes that have nothing to do."""
        return min(self.qos.idle(), most) if self.guard.has("loss-limit") else 0

    def _starts(self, payload: dict[str, Any]) -> bool:
        """Tell whether a message whose loss counts starts as soon as there is a process for it."""
        task = self.connection.client.app.tasks.get(payload["headers"].get("task"))
        return task is not None and task.acks_late and not task.rate_limit and not payload["headers"].get("eta")

    def _forget_fetch(self) -> None:
        """Note that the reply to a fetch will not come. What it was to do may have been done."""
        if self._fetch is not None:
            self.guard.acks.extend(self._fetch.acks)
            self.guard.unread.extend(self._fetch.tags)
            self._fetch = None

    def _read_fetch(self, fetch: Fetch) -> bool:
        try:
            try:
                reply = self.client.connection.read_response()
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            except redis.ResponseError as error:
                self._fetch = None
                self.guard.acks.extend(fetch.acks)
                self._refuse_fetch(error)
                raise Empty from error
            self._fetch = None
            return self._deliver_fetched(fetch, reply)
        finally:
            self._end_poll()

    def _refuse_fetch(self, error: redis.ResponseError) -> None:
        """Handle that Redis refused a fetch."""
        if isinstance(error, redis.exceptions.NoScriptError):
            with self.conn_or_acquire() as client:
                try:
                    client.script_load(FETCH.text)
                except redis.ResponseError as refused:
                    if not self.qos.refuses_scripts(refused):
                        raise
            return
        if self.qos.refuses_scripts(error):
            return
        if not self.guard.has("refusals"):
            raise error
        # A ConnectionError makes Celery reconnect, to the new master say.
        self.client.connection.disconnect()
        raise RefusedError(str(error)) from error

    def _deliver_fetched(self, fetch: Fetch, reply: Sequence[Any]) -> bool:
        refused, acknowledged, more = reply[:3]
        self.has_more = bool(more)
        if not acknowledged:
            self.guard.acks.extend(fetch.acks)
        waiting = deque(fetch.taken(reply))
        found = bool(waiting)
        try:
            while waiting:
                each = waiting.popleft()
                queue = each.list.rsplit(self.sep, 1)[0]
                self._queue_cycle.rotate(queue)
                self._deliver_item(queue, each.list, each.raw, each if each.recorded else None)
        finally:  # An error ended it: a result could not be stored, say.
            self.guard.unread.extend(each.tag for each in waiting if each.recorded)
            self.guard.popped.extend((each.list, each.raw) for each in waiting if not each.recorded)
        if refused:
            self._refuse_fetch(of_its_kind(redis.ResponseError(bytes_to_str(refused))))
        if not found:
            raise Empty
        return True

    def give_back(self, payload: Any) -> None:
        """Let the next channel requeue a message that is not recorded as taken."""
        queue = payload["properties"]["delivery_info"]["routing_key"]
        key = self._q_for_pri(queue, self._get_message_priority(payload, reverse=False))
        self.guard.popped.append((key, dumps(payload).encode()))

    def _restore_unread(self) -> None:
        """Requeue the messages that were recorded as taken, but that did not arrive, before taking more."""
        unread = self.guard.unread
        while unread:
            self.qos.restore_by_tag(unread[-1])  # The last one first, so that the first one is the next to be taken.
            unread.pop()

    def _deliver_item(self, queue: str, key: str, item: bytes | str, taken: Taken | None = None) -> None:
        """Deliver a message.

        Args:
            queue: The queue that it came from.
            key: The key of the list that it came from.
            item: The message.
            taken: What it was recorded as, if it was.
        """
        raise NotImplementedError
