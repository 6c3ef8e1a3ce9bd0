"""What is left of an error of hiredis, whose text the other side may have written."""

import traceback

import hiredis
import pytest
from hypothesis import given
from support.hostile_text import ACTS, TEXTS, check

from fibo_client.celery.redis.errors import RedisFaultError, translated_errors, without_traceback
from fibo_client.errors import TransportError
from fibo_client.text import LONGEST

KINDS = [hiredis.ReplyError, hiredis.ProtocolError]


def fail(error):
    with translated_errors():
        try:
            raise error
        except hiredis.HiredisError as said:
            raise RedisFaultError("unknown", "no") from without_traceback(said)


def check_chained(error):
    with pytest.raises(TransportError) as caught:
        fail(error)
    assert caught.value.__cause__ is error
    check("".join(traceback.format_exception(caught.value)), 2 * LONGEST, "\n")


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_no_error_of_hiredis_acts_on_a_terminal_in_a_traceback(kind, text):
    check_chained(kind(text))
    check_chained(kind(text, text))


@pytest.mark.parametrize("text", ACTS.values(), ids=ACTS)
def test_no_error_of_hiredis_is_endless_in_a_traceback(text):
    for kind in KINDS:
        check_chained(kind(text))
        check_chained(kind(OSError(text)))


def test_what_is_plain_stays_as_redis_says_it():
    assert str(without_traceback(hiredis.ReplyError("unknown command 'é'"))) == "unknown command 'é'"
