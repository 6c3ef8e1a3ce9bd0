"""Answers all tasks of a queue with 1, by hundreds, as no worker could.

``python -m tests.benchmarks.answering URL QUEUE``

It begins when a line comes in, and ends with its input.
"""

from __future__ import annotations

import json
import select
import sys

import redis

TAKEN = 500
"""The most messages that are answered at a time."""

EXPIRES = 600
ANSWER = 1


def answer(connection: redis.Redis, queue: str) -> bool:
    """Answer what waits in a queue, as a worker does: store each answer and publish it.

    Args:
        connection: Where the queue and the results are.
        queue: Its name.

    Returns:
        Whether there was anything.
    """
    messages = connection.rpop(queue, TAKEN) or []
    with connection.pipeline(transaction=False) as pipe:
        for message in messages:
            task_id = json.loads(message)["headers"]["id"]
            meta = {"status": "SUCCESS", "result": ANSWER, "traceback": None, "children": [], "task_id": task_id}
            said = json.dumps(meta)
            pipe.set(f"celery-task-meta-{task_id}", said, ex=EXPIRES)
            pipe.publish(f"celery-task-meta-{task_id}", said)
        pipe.execute()
    return bool(messages)


def main(url: str, queue: str) -> None:
    """Answer, until the input ends."""
    with redis.Redis.from_url(url) as connection:
        while sys.stdin.readline():
            while answer(connection, queue):
                if select.select([sys.stdin], [], [], 0)[0]:
                    break


if __name__ == "__main__":
    main(*sys.argv[1:])
