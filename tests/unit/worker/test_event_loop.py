"""What the event loop of a worker is told, and what not."""

import socket
import struct
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR, SCHED_STRATEGY_FCFS

from fibo_worker.guard.connections import BoundedPoller, _LeanHub
from fibo_worker.guard.event_loop import LeanHub
from fibo_worker.guard.pools import _Lean


class Hub:
    """Notes what it is told."""

    def __init__(self):
        self.readers, self.writers, self.told = {}, {}, []
        self.consolidate_callback = None

    def add_reader(self, fd, callback, *args):
        self.readers[fd] = callback, args
        self.told.append(("read", fd))

    def remove_writer(self, fd):
        self.writers.pop(fd, None)
        self.told.append(("write no more", fd))


@pytest.fixture
def hub():
    return Hub()


def test_what_is_waited_for_is_told_once(hub):
    lean = LeanHub(hub)
    for callback in (print, print, repr):
        lean.add_reader(3, callback, 3)
    assert hub.told == [("read", 3)] * 2
    assert hub.readers == {3: (repr, (3,))}


def test_what_was_forgotten_is_told_again(hub):
    lean = LeanHub(hub)
    lean.add_reader(3, print, 3)
    del hub.readers[3]
    lean.add_reader(3, print, 3)
    assert hub.told == [("read", 3)] * 2


def test_what_is_not_waited_for_is_not_taken_back(hub):
    lean = LeanHub(hub)
    hub.writers[4] = print, ()
    for fd in (3, 4, 4):
        lean.remove_writer(fd)
    assert hub.told == [("write no more", 4)]


def test_a_new_socket_with_the_number_of_an_old_one_is_told(hub):
    """The kernel forgets a socket that is closed, and the event loop does not."""
    channel = SimpleNamespace(sockets=list, end_turn=lambda: None, active_queues=(), active_fanout_queues=())
    poller = BoundedPoller()
    poller._channels = [channel]
    lean = _LeanHub(hub, poller)

    def turn(*sockets):
        channel.sockets = lambda: list(sockets)
        poller.on_poll_start()
        lean.add_reader(3, print, 3)
        told, hub.told = hub.told, []
        return len(told)

    with socket.socket() as one:
        assert [turn(one), turn(one), turn(), turn(one)] == [1, 0, 0, 0]
    with socket.socket() as other:
        assert [turn(other), turn(other)] == [1, 0]


class CelerysPool:
    """What Celery's pool has, as far as the guard's relies on it."""

    def __init__(self, strategy, idle):
        self.sched_strategy, self._all_inqueues = strategy, {7, 8}
        self._active_writes, self._busy_workers = set(), {7, 8} - idle
        self.outbound_buffer, self._cache, self.written, self.turns = [], {}, [], 0
        self.fails = False

    def _create_write_handlers(self, hub):
        def put(job):
            body = job[1][1]
            found = self._cache[job[1][0]] = SimpleNamespace()
            found._payload = memoryview(struct.pack(">I", len(body))), memoryview(body), len(body)
            self.outbound_buffer.append(found)

        def write(ready):
            if self.fails:
                raise BrokenPipeError
            for fd in ready:
                header, body, size = self.outbound_buffer.pop(0)._payload
                self.written.append((fd, bytes(header), bytes(body[:size])))

        def on_poll_start():
            self.turns += 1

        self._quick_put, hub.consolidate_callback, self.on_poll_start = put, write, on_poll_start


class Pool(_Lean, CelerysPool):
    pass


def made(hub, strategy=SCHED_STRATEGY_FAIR, idle=frozenset({7})):
    pool = Pool(strategy, set(idle))
    pool._create_write_handlers(hub)
    return pool


def test_a_task_is_written_to_an_idle_process_at_once_and_by_one_write(hub):
    pool = made(hub)
    pool._quick_put(("task", (1, b"do it")))
    assert pool.written == [(7, b"\x00\x00\x00\x05do it", b"")]
    assert hub.consolidate_callback is not None


def test_a_task_that_one_write_may_cut_is_written_as_celery_does(hub):
    pool = made(hub)
    pool._quick_put(("task", (1, b"x" * 5000)))
    assert pool.written == [(7, struct.pack(">I", 5000), b"x" * 5000)]


@pytest.mark.parametrize(("strategy", "idle"), [(SCHED_STRATEGY_FAIR, set()), (SCHED_STRATEGY_FCFS, {7})])
def test_a_task_waits_while_no_process_is_idle_or_the_app_wants_another_order(hub, strategy, idle):
    pool = made(hub, strategy, idle)
    pool._quick_put(("task", (1, b"do it")))
    assert (pool.written, len(pool.outbound_buffer)) == ([], 1)


def test_a_process_that_has_ended_does_not_harm_who_gives_it_a_task(hub):
    pool = made(hub)
    pool.fails = True
    pool._quick_put(("task", (1, b"do it")))
    assert pool.written == []


def test_the_pipes_are_looked_at_only_while_something_is_to_be_written(hub):
    pool = made(hub, idle=set())
    pool.on_poll_start()
    pool._quick_put(("task", (1, b"do it")))
    pool.on_poll_start()
    pool.outbound_buffer.clear()
    hub.writers[7] = None
    pool.on_poll_start()
    assert pool.turns == 2
