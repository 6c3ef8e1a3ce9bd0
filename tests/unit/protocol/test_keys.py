"""Names of lists, keys and channels, with prefixes and priorities."""

import enum

import pytest

from fibo_client.celery.redis.keys import BrokerKeys, result_key_prefix
from fibo_client.errors import MessageError


class Queue(str, enum.Enum):  # noqa: UP042 - its str() is the member's name, unlike a StrEnum's
    FAST = "fast"


def keys(**fields):
    defaults = {"prefix": "", "steps": (0, 3, 6, 9), "separator": "\x06\x16", "db": 0, "control_exchange": "celery"}
    return BrokerKeys(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("steps", "suffixes"),
    [
        ((0, 3, 6, 9), ["", "", "", "3", "3", "3", "6", "6", "6", "9"]),
        ((0,), [""] * 10),
        ((0, 9), [""] * 9 + ["9"]),
        ((0, 1, 5), ["", "1", "1", "1", "1", "5", "5", "5", "5", "5"]),
        (tuple(range(10)), ["", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
    ],
)
@pytest.mark.parametrize("separator", ["\x06\x16", ":", "--"])
@pytest.mark.parametrize("prefix", ["", "pfx:", "no_separator"])
def test_a_priority_goes_to_the_list_of_the_step_at_or_below_it(prefix, separator, steps, suffixes):
    names = [keys(steps=steps, separator=separator, prefix=prefix).queue("q", priority) for priority in range(10)]
    assert names == [f"{prefix}q{separator if suffix else ''}{suffix}" for suffix in suffixes]


def test_a_queue_has_one_list_a_step():
    assert keys(steps=(0, 5), separator=":", prefix="p.").queues("q") == ["p.q", "p.q:5"]


@pytest.mark.parametrize("name", ["", "a\x06\x16", "a\n", 5, None, "x" * 1025])
def test_a_name_that_no_list_can_have_is_refused(name):
    with pytest.raises(MessageError, match="queue"):
        keys().queue(name, 0)
    with pytest.raises(MessageError, match="queue"):
        keys().queues(name)


def test_a_queue_named_by_an_enumerations_member_is_called_by_its_text():
    assert keys().queue(Queue.FAST, 0) == "fast"


def test_control_names_carry_prefix_database_and_exchange_where_kombu_looks_for_them():
    plain, other = keys(), keys(prefix="pfx:", db=3, control_exchange="mine")
    assert plain.control_channel == "/0.celery.pidbox"
    assert other.control_channel == "pfx:/3.mine.pidbox"
    assert keys(prefix="pfx:", fanout_prefix=False).control_channel == "pfx:celery.pidbox"
    assert keys(fanout_prefix="").control_channel == "celery.pidbox"
    assert keys(db=7, fanout_prefix="/here{db}.").control_channel == "/here7.celery.pidbox"
    assert keys(fanout_prefix="/here.").control_channel == "/here.celery.pidbox"
    assert plain.reply_list("k") == "k.reply.celery.pidbox"
    assert other.reply_list("k") == "pfx:k.reply.mine.pidbox"


def test_names_inside_a_message_have_no_prefix():
    assert keys(prefix="pfx:").reply_routing_key("k") == "k.reply.celery.pidbox"


@pytest.mark.parametrize(
    ("prefix", "start"),
    [
        ("", "celery-task-meta-"),
        ("rp", "rp_celery-task-meta-"),
        ("rp_", "rp_celery-task-meta-"),
        ("rp:", "rp:celery-task-meta-"),
        ("rp-", "rp-celery-task-meta-"),
        ("rp.", "rp.celery-task-meta-"),
        ("rp/", "rp/_celery-task-meta-"),
        ("{rp}", "{rp}_celery-task-meta-"),
    ],
)
def test_the_result_stores_prefix_gets_an_underscore_unless_it_ends_in_a_separator(prefix, start):
    assert result_key_prefix(prefix) == start
