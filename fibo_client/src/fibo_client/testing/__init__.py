"""Doubles for tests of programs that use fibo_client: the real client, without a Redis or a worker to start.

`fibo_client.testing.pytest` has fixtures of them.
"""

from __future__ import annotations

from fibo_client.testing.declared import check_declared
from fibo_client.testing.fake import FakeCelery, FakeFibo
from fibo_client.testing.messages import SentTask
from fibo_client.testing.worker import FakeTask

__all__ = ["FakeCelery", "FakeFibo", "FakeTask", "SentTask", "check_declared"]
