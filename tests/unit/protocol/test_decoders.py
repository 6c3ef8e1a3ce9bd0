"""Every decoder, by the promises that the fuzzer holds it to: with made-up bytes, and with what the fuzzer kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz import targets
from hypothesis import given
from hypothesis import strategies as st

CORPUS = Path(targets.__file__).parent / "corpus"
KEPT = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))

ENVELOPES = st.fixed_dictionaries(
    {
        "__type__": st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "x", None, []]),
        "__value__": st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.just({"hex": 5}), st.just([[]])),
    }
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), ENVELOPES, st.just(10**400)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FAILURES = st.fixed_dictionaries({}, optional=dict.fromkeys(("exc_type", "exc_message", "exc_module"), VALUES))
METAS = st.fixed_dictionaries(
    {"task_id": st.just(targets.ID)},
    optional={
        "status": st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "REVOKED", "PROGRESS"]) | VALUES,
        "result": FAILURES | VALUES,
        **dict.fromkeys(("traceback", "children", "date_done", "name", "args", "retries", "queue"), VALUES),
    },
)


def test_there_is_a_corpus_of_every_target():
    assert {path.parts[0] for path in KEPT} == set(targets.TARGETS)


@pytest.mark.parametrize("path", KEPT, ids=str)
def test_what_the_fuzzer_kept_breaks_nothing(path):
    targets.TARGETS[path.parts[0]]((CORPUS / path).read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_messages_of_real_workers_break_nothing_wherever_they_are_cut(name):
    for seed in targets.seeds(name):
        for end in range(len(seed) + 1):
            targets.TARGETS[name](seed[:end])


@pytest.mark.parametrize("name", targets.TARGETS)
@given(data=st.binary(max_size=300))
def test_random_bytes_break_nothing(name, data):
    targets.TARGETS[name](data)


@pytest.mark.parametrize("name", targets.TARGETS)
@given(data=st.data())
def test_one_wrong_byte_breaks_nothing(name, data):
    seed = bytearray(data.draw(st.sampled_from(targets.seeds(name))))
    seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    targets.TARGETS[name](bytes(seed))


@given(stored=METAS)
def test_a_meta_of_wrong_types_breaks_nothing(stored):
    targets.meta(json.dumps(stored).encode())


@given(value=VALUES)
def test_an_answer_of_any_shape_breaks_nothing(value):
    targets.answers(json.dumps(value).encode())
    targets.reply(json.dumps({"headers": {"ticket": "t"}, "body": value}).encode())


@given(
    text=st.from_regex(r"(redis|rediss|redis\+socket|sentinel)://[^ ]{0,40}")
    | st.text(alphabet="redis:/@[]%?;#&=0123456789.\\\0\r\n\u2024\ud800", max_size=40)
)
def test_a_url_of_any_spelling_breaks_nothing(text):
    targets.urls(text.encode("utf-8", "replace"))
