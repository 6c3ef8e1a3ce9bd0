"""Values that Celery's JSON carries."""

from __future__ import annotations

from datetime import timedelta, timezone

from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
# Not zones by name: of a time that comes twice in autumn, Python says that it equals none in another zone.
OFFSETS = st.integers(-82800, 82800).map(lambda seconds: timezone(timedelta(seconds=seconds)))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.datetimes()
    | st.datetimes(timezones=OFFSETS)
    | st.dates()
    | st.times()
    | st.times(timezones=OFFSETS)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
)


def nested(scalars: st.SearchStrategy = SCALARS, keys: st.SearchStrategy[str] = TEXT) -> st.SearchStrategy:
    """Put scalars into lists and dicts."""
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=15
    )
