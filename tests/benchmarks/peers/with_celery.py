"""Celery's own client, which blocks: a group for many tasks, one call after the other for calls."""

import gc
import sys
from pathlib import Path

import harness
from celery import Celery, group

TESTS = Path(__file__).parents[2]
TASK = "tasks.fibo_task"


def worker(url):
    """The plain worker of the tests: its commands, and variables for them."""
    command = (sys.executable, "-m", "celery", "-A", "support.stock", "worker", "--concurrency", "2")
    quiet = ("--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat")
    environment = {"PYTHONPATH": str(TESTS), "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    return ((*command, *quiet),), environment


def number(answer):
    """Take the number out of the task's sentence."""
    return int(answer[1].rpartition(" ")[2])


class Blocking(harness.Peer):
    packages = ("celery", "kombu", "redis", "hiredis")

    def __init__(self, url, tasks):
        super().__init__(url, tasks)
        self.workers, self.environment = worker(url)
        self.app = Celery(broker=url, backend=url, set_as_current=False)

    async def submit(self, count):
        return group([self.app.signature(TASK, (harness.N,)) for _ in range(count)], app=self.app).apply_async()

    async def collect(self, sent):
        # By default a group whose answers are all there already waits for half a second nevertheless.
        return [number(answer) for answer in sent.get(timeout=harness.TIMEOUT, interval=0.01)]

    def call(self):
        return number(self.app.send_task(TASK, (harness.N,)).get(timeout=harness.TIMEOUT))

    async def many_calls(self, count):
        return await self.collect(await self.submit(count))

    async def forget(self):
        gc.collect()
        self.app.backend.client.flushdb()

    async def close(self):
        gc.collect()
        self.app.close()


if __name__ == "__main__":
    harness.main(Blocking)
