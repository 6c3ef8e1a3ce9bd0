"""Publishing for everybody: on an event loop with a clock of its own, over a broker in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from support.clock import virtual
from support.memory import MemoryBackend, MemoryBroker
from support.messages import messages

from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.jobs import Job
from fibo_client.celery.publisher import MAX_BYTES, MAX_IN_FLIGHT, PORTION, Publisher
from fibo_client.celery.reader import Reader
from fibo_client.errors import PublishError, PublishUnknownError


class Sender:
    """Leaves messages with a publisher."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.jobs: list[Job] = []

    @property
    def told(self) -> list[Exception | None]:
        """What the jobs that are over were told."""
        return [job.error for job in self.jobs if job.over]

    def put(self, *task_ids: str, queue: str = "celery", size: int = 10, retry_for: float | None = None) -> Job:
        loop = asyncio.get_running_loop()
        job = Job(
            messages(*task_ids, queue=queue, size=size),
            (),
            loop.create_future(),
            loop.time(),
            retry_for,
            retry=retry_for is not None,
        )
        self.jobs.append(job)
        self.publisher.put(job)
        return job

    def withdraw(self, job: Job) -> bool:
        """Withdraw a job; tell whether nothing of it was, or will be, sent."""
        self.publisher.withdraw(job)
        return len(job.unsent) == len(job.messages)


def make_publisher(broker: MemoryBroker) -> Publisher:
    backend = MemoryBackend()
    return Publisher(broker, backend, Reader(backend, CeleryConfig(), lambda: None))


@asynccontextmanager
async def running():
    broker = MemoryBroker()
    publisher = make_publisher(broker)
    publisher.start()
    try:
        yield broker, publisher, Sender(publisher)
    finally:
        await publisher.aclose("the client was closed")


def sent(broker: MemoryBroker) -> list[list[str]]:
    return [[message.id for message in command] for command in broker.commands]


@virtual
async def test_what_is_left_first_goes_at_once_and_the_rest_of_an_iteration_of_the_loop_in_one_command():
    async with running() as (broker, publisher, sender):
        others = [Sender(publisher) for _ in range(10)]
        for number, each in enumerate(others):
            each.put(str(number))
        assert sent(broker) == [["0"]]
        await asyncio.sleep(1)
        assert sent(broker) == [["0"], [str(number) for number in range(1, 10)]]
        assert [each.told for each in others] == [[None]] * 10
        assert sender.told == []


@virtual
async def test_messages_of_all_queues_go_to_the_broker_together_in_order():
    async with running() as (broker, _, sender):
        sender.put("a", queue="x")
        sender.put("b", queue="y")
        sender.put("c", queue="x")
        await asyncio.sleep(1)
        assert sent(broker) == [["a"], ["b", "c"]]


@virtual
async def test_commands_are_bounded_in_messages_and_in_bytes():
    async with running() as (broker, _, sender):
        sender.put(*map(str, range(2 * PORTION + 1)))
        await asyncio.sleep(1)
        assert [len(ids) for ids in sent(broker)] == [PORTION, PORTION, 1]
        broker.commands.clear()
        sender.put("a", "b", "c", "d", size=MAX_BYTES // 2)
        await asyncio.sleep(1)
        assert sent(broker) == [["a", "b"], ["c", "d"]]
        broker.commands.clear()
        sender.put("a", "b", size=2 * MAX_BYTES)
        await asyncio.sleep(1)
        assert sent(broker) == [["a"], ["b"]]


@virtual
async def test_what_is_withdrawn_before_the_flush_is_never_sent():
    async with running() as (broker, _, sender):
        sender.put("first")
        job = sender.put("a")
        sender.put("b")
        assert sender.withdraw(job)
        await asyncio.sleep(1)
        assert sent(broker) == [["first"], ["b"]]
        assert sender.told == [None, None]


@virtual
async def test_a_command_under_way_is_completed_although_its_sender_has_gone():
    async with running() as (broker, _, sender):
        broker.outcomes.append(0.5)
        job = sender.put("a")
        await asyncio.sleep(0.1)
        assert not sender.withdraw(job)
        await asyncio.sleep(1)
        assert sender.told == [None]
        assert not sender.withdraw(job)


@virtual
async def test_a_failure_is_told_with_the_ids_and_nothing_is_sent_again():
    async with running() as (broker, _, sender):
        broker.outcomes.append(PublishError("connection refused"))
        sender.put("a", "b")
        await asyncio.sleep(10)
        (error,) = sender.told
        assert isinstance(error, PublishError)
        assert error.task_ids == ("a", "b")
        assert len(broker.commands) == 1


@virtual
async def test_an_unknown_outcome_is_told_as_unknown():
    async with running() as (broker, _, sender):
        broker.outcomes.append(PublishUnknownError("no answer"))
        sender.put("a")
        await asyncio.sleep(10)
        (error,) = sender.told
        assert isinstance(error, PublishUnknownError)
        assert error.task_ids == ("a",)


@virtual
async def test_with_retry_the_same_message_is_sent_again_until_they_are_through():
    async with running() as (broker, _, sender):
        broker.outcomes.extend(
            [PublishUnknownError("no answer"), PublishError("refused"), PublishUnknownError("again")]
        )
        sender.put("a", retry_for=60)
        await asyncio.sleep(60)
        assert sender.told == [None]
        assert len({id(message) for (message,) in broker.commands}) == 1
        assert len(broker.commands) == 4


@virtual
async def test_retrying_ends_before_the_deadline_and_stays_unknown_once_it_was():
    async with running() as (broker, _, sender):
        broker.outcomes.append(PublishUnknownError("no answer"))
        broker.outcomes.extend([PublishError("connection refused")] * 1000)
        sender.put("a", retry_for=10)
        await asyncio.sleep(10)
        assert isinstance(sender.told[0], PublishUnknownError)


@virtual
async def test_a_client_that_never_reached_redis_does_not_retry():
    async with running() as (broker, _, sender):
        broker.outcomes.extend([PublishError("connection refused")] * 2)
        sender.put("a", retry_for=60)
        await asyncio.sleep(0.01)
        assert isinstance(sender.told[0], PublishError)


@virtual
async def test_a_refusal_is_not_retried():
    async with running() as (broker, _, sender):
        sender.put("first")
        await asyncio.sleep(0.01)
        broker.outcomes.append(PublishError("NOPERM", refused=True))
        sender.put("a", retry_for=60)
        await asyncio.sleep(0.01)
        assert isinstance(sender.told[1], PublishError)
        assert len(broker.commands) == 2


@virtual
async def test_each_message_has_an_outcome_of_its_own_whenever_it_comes():
    async with running() as (broker, publisher, sender):
        refused, unknown, lost = (Sender(publisher) for _ in range(3))

        def one_by_one(sending, told):
            loop = asyncio.get_running_loop()
            a, b, c, d = sending
            loop.call_soon(told.failed, [c], PublishUnknownError("the confirm was lost"))
            loop.call_soon(told.failed, [b], PublishError("returned: no such queue", refused=True))
            loop.call_soon(told.sent, [a])
            loop.call_later(1, told.failed, [d], PublishError("connection reset"))

        Sender(publisher).put("first")  # What follows at once goes together.
        broker.publish = one_by_one
        for each, name in zip((sender, refused, unknown, lost), "abcd", strict=True):
            each.put(name)
        await asyncio.sleep(10)
        assert sender.told == [None]
        assert (type(refused.told[0]), refused.told[0].refused) == (PublishError, True)
        assert (type(unknown.told[0]), unknown.told[0].task_ids) == (PublishUnknownError, ("c",))
        assert (type(lost.told[0]), lost.told[0].refused) == (PublishError, False)
        assert publisher.published == 2


@virtual
async def test_of_one_sender_only_what_has_failed_is_sent_again():
    async with running() as (broker, _, sender):
        sender.put("first")
        await asyncio.sleep(0.01)
        publish = broker.publish

        def every_other(sending, told):
            broker.publish = publish
            loop = asyncio.get_running_loop()
            loop.call_soon(told.failed, sending[1::2], PublishUnknownError("the confirm was lost"))
            loop.call_soon(told.sent, sending[::2])

        broker.publish = every_other
        sender.put("a", "b", "c", "d", retry_for=60)
        await asyncio.sleep(60)
        assert sent(broker) == [["first"], ["b", "d"]]
        assert sender.told == [None, None]


@virtual
async def test_two_senders_may_give_their_tasks_the_same_id():
    async with running() as (broker, publisher, sender):
        other = Sender(publisher)

        def only_the_first(sending, told):
            loop = asyncio.get_running_loop()
            loop.call_soon(told.sent, sending[:1])
            loop.call_soon(told.failed, sending[1:], PublishError("refused", refused=True))

        Sender(publisher).put("first")
        broker.publish = only_the_first
        sender.put("same")
        other.put("same")
        await asyncio.sleep(1)
        assert sender.told == [None]
        assert isinstance(other.told[0], PublishError)


@virtual
async def test_after_a_lost_connection_the_rest_of_a_job_is_not_tried():
    async with running() as (broker, _, sender):
        broker.outcomes.append(PublishUnknownError("no answer within 5 s"))
        job = sender.put(*map(str, range(3 * PORTION)), size=MAX_BYTES // PORTION)
        await asyncio.sleep(0.01)
        assert isinstance(sender.told[0], PublishUnknownError)
        assert len(job.maybe_sent) == PORTION
        assert len(broker.commands) == 1


@virtual
async def test_so_many_small_jobs_at_most_do_not_know_whether_they_were_sent():
    async with running() as (broker, publisher, _):
        broker.outcomes.extend([5.0, 5.0])
        senders = [Sender(publisher) for _ in range(1000)]
        for number, each in enumerate(senders):
            each.put(str(number))
        await asyncio.sleep(1)
        assert sum(bool(job.maybe_sent) for each in senders for job in each.jobs) == MAX_IN_FLIGHT
        assert len(broker.commands) == 2
        await asyncio.sleep(5)
        assert [each.told for each in senders] == [[None]] * 1000


@virtual
async def test_a_small_job_goes_before_the_rest_of_a_large_one():
    async with running() as (broker, publisher, sender):
        broker.outcomes.extend([0.1] * 10)
        sender.put(*map(str, range(5 * PORTION)), size=MAX_BYTES // PORTION)
        await asyncio.sleep(0.05)
        Sender(publisher).put("small")
        await asyncio.sleep(10)
        assert "small" in sent(broker)[1]


@virtual
async def test_what_waits_for_a_broker_that_cannot_be_reached_was_not_sent():
    async with running() as (broker, publisher, sender):
        broker._memory.down = "connection refused"
        sender.put("a", "b")
        await asyncio.sleep(0.01)
        assert isinstance(sender.told[0], PublishError)
        assert sender.told[0].task_ids == ("a", "b")
        assert (broker.commands, publisher.unsent) == ([], 0)
        broker._memory.down = None
        sender.put("c")
        await asyncio.sleep(0.01)
        assert sender.told[1] is None


@virtual
async def test_only_what_failed_of_a_large_batch_is_sent_again():
    async with running() as (broker, _, sender):
        broker.outcomes.extend([0.0, PublishError("connection reset"), 0.0])
        ids = [str(number) for number in range(3 * PORTION)]
        sender.put(*ids, retry_for=60)
        await asyncio.sleep(60)
        assert sender.told == [None]
        assert sorted(task_id for command in sent(broker)[:1] + sent(broker)[2:] for task_id in command) == sorted(ids)


@virtual
async def test_between_two_attempts_a_task_can_still_be_withdrawn():
    async with running() as (broker, _, sender):
        sender.put("first")
        await asyncio.sleep(0.01)
        broker.outcomes.append(PublishError("connection refused"))
        job = sender.put("a", retry_for=60)
        await asyncio.sleep(0.001)
        assert sender.withdraw(job)
        await asyncio.sleep(60)
        assert len(broker.commands) == 2
        assert sender.told == [None]


@virtual
async def test_closing_tells_who_is_under_way_that_it_is_unknown_and_the_others_that_nothing_was_sent():
    broker = MemoryBroker()
    publisher = make_publisher(broker)
    publisher.start()
    under_way, waiting = Sender(publisher), Sender(publisher)
    broker.outcomes.append(5.0)
    under_way.put("a", size=MAX_BYTES)
    await asyncio.sleep(0.1)
    waiting.put("b")
    await publisher.aclose("the client was closed")
    assert isinstance(under_way.told[0], PublishUnknownError)
    assert isinstance(waiting.told[0], PublishError)
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_bug_in_the_broker_is_told_to_the_senders_and_publishing_goes_on(caplog):
    async with running() as (broker, _, sender):
        broker.outcomes.append(AssertionError("a bug"))
        sender.put("a")
        await asyncio.sleep(0.01)
        sender.put("b")
        await asyncio.sleep(0.01)
        assert isinstance(sender.told[0], PublishUnknownError)
        assert sender.told[1] is None
    assert "publishing failed" in caplog.text


@virtual
async def test_a_sender_that_leaves_during_a_command_that_fails_is_not_retried():
    async with running() as (broker, _, sender):
        sender.put("first")
        await asyncio.sleep(0.01)

        def fail(sending, told):
            broker.commands.append(sending)
            asyncio.get_running_loop().call_later(0.5, told.failed, sending, PublishUnknownError("no answer"))

        broker.publish = fail
        job = sender.put("a", retry_for=1000)
        await asyncio.sleep(0.1)
        assert not sender.withdraw(job)
        await asyncio.sleep(100)
        assert len(broker.commands) == 2


@virtual
async def test_a_sender_that_leaves_during_a_batch_stops_the_rest_of_it():
    async with running() as (broker, _, sender):
        broker.outcomes.extend([0.5] * 10)
        job = sender.put(*map(str, range(5 * PORTION)), size=MAX_BYTES // PORTION)
        await asyncio.sleep(0.1)
        assert not sender.withdraw(job)
        await asyncio.sleep(100)
        assert len(broker.commands) == 1
        assert len(job.unsent) == 4 * PORTION


@virtual
async def test_what_was_certainly_not_sent_is_not_told_as_unknown():
    async with running() as (broker, _, sender):
        broker.outcomes.extend([0.0, PublishError("connection refused")])
        ids = [str(number) for number in range(2 * PORTION)]
        sender.put(*ids)
        await asyncio.sleep(1)
        (error,) = sender.told
        assert isinstance(error, PublishError)
        assert list(error.task_ids) == ids[PORTION:]
