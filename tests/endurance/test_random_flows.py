"""Random chains, groups and chords on a stock worker give what plain Python gives, and leave nothing."""

from __future__ import annotations

import asyncio

import pytest
import redis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from support.kept import kept
from support.waiting import until

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, Chain, Chord, Group, RemoteTask, chain, chord, group

pytestmark = pytest.mark.timeout(300)

EXAMPLES = 40
DEPTH = 4
MOST_TASKS = 24


def fail(*args):
    raise ValueError(*args)


TASKS = {
    "add": lambda x, y: x + y,
    "total": lambda numbers, more=0: sum(numbers) + more,
    "negated": lambda value: -value,
    "echo": lambda *args: [list(args), {}],
    "fail": fail,
}
"""What the tasks of `support.stock` do."""

NOTHING = object()


# A flow as it is generated: ("task", name, args, is_immutable), ("chain" or "group", parts), ("chord", parts, body).


@st.composite
def tasks(draw, *, is_first):
    """A task that gets a result in front, or one that runs first and has all its arguments."""
    number = st.integers(-5, 5)
    kind = draw(st.sampled_from(["add"] * 5 + ["total"] * 3 + ["negated", "echo", "fail"]))
    if is_first or draw(st.integers(0, 9)) == 0:
        args = {
            "add": lambda: (draw(number), draw(number)),
            "total": lambda: (draw(st.lists(number, max_size=3)),),
            "negated": lambda: (draw(number),),
            "echo": lambda: tuple(draw(st.lists(number, max_size=2))),
            "fail": lambda: ("no",),
        }[kind]()
        return "task", kind, args, not is_first
    return "task", kind, (draw(number),) if kind == "add" else (), False


@st.composite
def flows(draw, *, depth=DEPTH, is_first=True, in_header=False):
    kind = draw(st.sampled_from(["task", "chain", "group", "chord"])) if depth else "task"
    if kind == "task":
        return draw(tasks(is_first=is_first))
    if kind == "chain":
        last = draw(st.integers(1, 2))
        parts = [
            draw(flows(depth=depth - 1, is_first=is_first and not place, in_header=in_header or place < last))
            for place in range(last + 1)
        ]
        flow = ("chain", parts)
    elif kind == "group":
        members = flows(depth=depth - 1, is_first=is_first, in_header=in_header)
        flow = ("group", [draw(members) for _ in range(draw(st.integers(1, 3)))])
    else:
        header = [
            draw(flows(depth=depth - 1, is_first=is_first, in_header=True)) for _ in range(draw(st.integers(1, 3)))
        ]
        flow = ("chord", header, draw(flows(depth=depth - 1, is_first=False)))
    # What ends in a group has no one result, which a chord could count.
    if in_header and kind != "group" and ends_in_group(flow):
        return ("chain", [flow, ("task", "total", (), False)])
    return flow


def ends_in_group(flow):
    match flow:
        case ("group", _):
            return True
        case ("chain", parts):
            return ends_in_group(parts[-1])
        case ("chord", _, body):
            return ends_in_group(body)
    return False


def count(flow):
    if flow[0] == "task":
        return 1
    return sum(map(count, flow[1])) + (count(flow[2]) if flow[0] == "chord" else 0)


def composed(flow):
    """The flow as a value of the client."""
    match flow:
        case ("task", name, args, is_immutable):
            step = RemoteTask(f"stock.{name}").s(*args)
            return step.immutable() if is_immutable else step
        case ("chain", parts):
            return chain(*map(composed, parts))
        case ("group", parts):
            return group([composed(part) for part in parts])
        case ("chord", header, body):
            return chord([composed(part) for part in header], composed(body))


def evaluate(flow, given=NOTHING):
    """What plain Python makes of the flow."""
    match flow:
        case ("task", name, args, is_immutable):
            return TASKS[name](*args) if is_immutable or given is NOTHING else TASKS[name](given, *args)
        case ("chain", parts):
            for part in parts:
                given = evaluate(part, given)
            return given
        case ("group", parts):
            return [evaluate(part, given) for part in flattened(parts)]
        case ("chord", header, body):
            return evaluate(body, [evaluate(part, given) for part in flattened(header)])


def flattened(parts):
    """A group in a group is part of it."""
    for part in parts:
        if part[0] == "group":
            yield from flattened(part[1])
        else:
            yield part


@pytest.fixture(scope="module")
def direct(own_stock):
    with redis.Redis.from_url(own_stock, decode_responses=True) as direct:
        yield direct


@pytest.fixture(scope="module")
def runner():
    """Runs coroutines on one event loop: Hypothesis knows no asyncio."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def client(own_stock, runner):
    client = runner.run(CeleryClient(own_stock, timeout=60).open())
    yield client
    runner.run(client.aclose())


def fails(flow):
    try:
        evaluate(flow)
    except (TypeError, ValueError):
        return True
    return False


def chords(value):
    """How many chords there are in what was composed."""
    match value:
        case Chord():
            return 1 + sum(map(chords, value.header.members)) + chords(value.body)
        case Chain():
            return sum(map(chords, value.steps))
        case Group():
            return sum(map(chords, value.members))
    return 0


def check(runner, flow, get):
    """Compare what workers and plain Python make of a flow."""
    if fails(flow):
        with pytest.raises(TaskFailedError):
            runner.run(get(composed(flow)))
    else:
        assert runner.run(get(composed(flow))) == evaluate(flow)


random_flows = flows().filter(lambda flow: flow[0] != "task" and count(flow) <= MOST_TASKS)
patiently = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


def test_random_flows_give_what_plain_python_gives_and_leave_nothing(client, runner, direct):
    before = kept(direct)

    @patiently
    @given(flow=random_flows)
    def run(flow):
        # Of a chord in a chord, a worker may make the id anew: of one that fails, it leaves what only it knows.
        assume(chords(composed(flow)) < 2 or not fails(flow))
        check(runner, flow, client.call)
        kept(direct)

    run()
    # The client deletes while its event loop runs.
    until(lambda: not runner.run(asyncio.sleep(0.05, kept(direct))) - before, lambda: str(kept(direct)), timeout=120)


def test_random_flows_that_are_handed_out_give_what_plain_python_gives(client, runner, direct):
    async def get(flow):
        sent = await client.send(flow)
        return await sent.get()

    @patiently
    @given(flow=random_flows)
    def run(flow):
        check(runner, flow, get)
        kept(direct)

    run()
