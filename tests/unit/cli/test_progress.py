"""What tasks report of themselves, as the bar takes it."""

from __future__ import annotations

import math

import pytest

from fibo_client.cli.progress import progress


@pytest.mark.parametrize(
    ("meta", "found"),
    [
        ({"current": 3, "total": 10, "status": "Working"}, (3, 10)),
        ({"done": 0, "total": 10}, (0, 10)),
        ({"completed": 3, "total": 10}, (3, 10)),
        ({"processed": 3, "total": 10}, (3, 10)),
        ({"progress": 3, "total": 10}, (3, 10)),
        ({"step": 3, "total_steps": 10}, (3, 10)),
        ({"current": 3, "total": 10, "percent": 30.0, "pending": False}, (3, 10)),
        ({"current": 1.5, "total": 2.0}, (75, 100)),
        ({"progress": 42}, (42, 100)),
        ({"progress": 1, "stage": "research"}, (1, 100)),
        ({"progress": 0.2}, (20, 100)),
        ({"progress": 1.0}, (100, 100)),
        ({"progress": 62.5}, (62, 100)),
        ({"percent": 0.5}, (0, 100)),
        ({"percentage": 99.99}, (99, 100)),
        ({"pct": 7}, (7, 100)),
        ({"process_percent": 101}, (100, 100)),
        ({"current": 5, "total": 0, "percent": 0}, (0, 100)),
        ({"done": 5}, (5, None)),
        ({"current": 5, "total": None}, (5, None)),
        ({"current": 5, "total": "ten"}, (5, None)),
        # What says nothing that can be shown.
        ({"done": 0.5}, None),
        ({"page": 3}, None),
        ({"status": "Extracting"}, None),
        ({"done": True, "total": True}, None),
        ({"current": "3", "total": "10"}, None),
        ({"current": -3}, None),
        ({"percent": math.nan}, None),
        ({"percent": math.inf}, None),
        ({"current": 10**5000, "total": 10**5000}, None),
        ({"pid": 7, "hostname": "w@h"}, None),
        ({}, None),
        (None, None),
        ([3, 10], None),
        ("half", None),
        (50, None),
    ],
)
def test_it_is_read_as_it_is_meant(meta, found):
    assert progress(meta) == found
