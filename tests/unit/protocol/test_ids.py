"""Task ids are version 4 UUIDs, each from its own random bytes."""

import os
import uuid

from hypothesis import given
from hypothesis import strategies as st

from fibo_client.celery.protocol.ids import ID_BYTES, cut_ids


@given(st.binary(max_size=20 * ID_BYTES).map(lambda random: random[: len(random) // ID_BYTES * ID_BYTES]))
def test_ids_are_what_the_standard_library_makes_of_the_same_bytes(random):
    pieces = [random[start : start + ID_BYTES] for start in range(0, len(random), ID_BYTES)]
    assert cut_ids(random) == [str(uuid.UUID(bytes=piece, version=4)) for piece in pieces]


def test_an_id_is_a_version_4_uuid_and_none_is_there_twice():
    ids = cut_ids(os.urandom(1000 * ID_BYTES))
    assert len(set(ids)) == 1000
    for each in map(uuid.UUID, ids):
        assert each.version == 4
        assert each.variant == uuid.RFC_4122
