"""What the scripts for unacknowledged messages are given, and what their replies say."""

import hashlib

import pytest
from redis import ResponseError
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError

from fibo_worker.guard.scripts import Script, are_scripts_refused, of_its_kind
from fibo_worker.guard.unacked import Fetch, Tags, Taken, Unacked, unwrapped

KEYS = Unacked("p:", "index", "unacked", "|")


def test_no_two_tags_are_equal():
    tags = [*Tags().make(3), *(more := Tags()).make(2), *more.make(2)]
    assert len(set(tags)) == 7


def test_a_fetch_names_all_keys_with_the_prefix_and_queues_without():
    keys, arguments = KEYS.fetch(Fetch(("a",), ("q", "q|3"), ("t", "u"), 1))
    assert keys == ["p:index", "p:unacked", "p:unacked_started.a", "p:q", "p:q|3", "p:unacked_started.t"]
    assert arguments == [1, 2, 1, 604800, "a", "t", "u", '"q"', '"q"']


@pytest.mark.parametrize(("starts", "more"), [(True, [604800]), (False, [])])
def test_taking_names_the_mark_only_where_it_is_to_be_set(starts, more):
    keys, arguments = KEYS.take("t", "{}", ["q"], starts=starts)
    assert keys == ["p:index", "p:unacked", "p:unacked_started.t", "p:q"]
    assert arguments == ["t", "{}", *more]


def test_a_reply_has_each_message_with_its_list_and_what_was_done_for_it():
    fetch = Fetch((), ("q", "q|3"), ("t", "u"), 1)
    reply = [b"", 1, 0, b"t", 0, 2, b"{}", b"u", 1, 0, b"[]"]
    assert fetch.taken(reply) == [Taken("t", "q", True, True, b"{}"), Taken("u", "q|3", False, False, b"[]")]
    assert fetch.taken([b"", 1, 0]) == []


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        (b'[{no JSON}, "", "celery"]', (b"{no JSON}", "celery")),
        (b"{}", (b"{}", "unacked")),
        (b"", (b"", "unacked")),
    ],
)
def test_a_message_that_is_no_json_is_found_in_what_was_recorded(recorded, found):
    assert unwrapped(recorded) == found


def test_a_script_has_the_name_that_redis_gives_it():
    assert Script("return 1").sha == hashlib.sha1(b"return 1", usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error running script (call to f_1): @user_script:1: -OOM command not allowed", OutOfMemoryError),
        ("Error running script (call to f_1): @user_script:1: -READONLY You can't write", ReadOnlyError),
        ("The user executing the script can't run this command or subcommand", NoPermissionError),
        ("something else", ResponseError),
    ],
)
def test_an_error_of_a_script_is_of_the_kind_of_its_cause(said, kind):
    assert type(of_its_kind(ResponseError(said))) is kind


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (NoPermissionError("no"), True),
        (NoScriptError("no"), True),
        (ResponseError("unknown command `EVALSHA`, with args"), True),
        (ResponseError("WRONGTYPE"), False),
    ],
)
def test_it_is_known_where_scripts_are_refused(error, refused):
    assert are_scripts_refused(error) == refused
