"""Call tasks of any Celery worker by their names. Its code is not imported."""

import asyncio
import datetime as dt

from fibo_client import TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask

# Typed: a type checker compares the arguments, and knows what comes back.
add = RemoteTask[[int, int], int]("proj.tasks.add")


async def main():
    async with CeleryClient(queue="proj") as celery:  # the queue that its worker takes from
        # Send and wait.
        print(await celery.call(add(2, 3), timeout=10))
        print(await celery.call(add(2, y=3), timeout=10))  # with keyword arguments
        print(await celery.call("proj.tasks.add", (2, 3), timeout=10))  # by its name alone: the answer is Any

        # Send now, with Celery's options, and ask later.
        result = await celery.send_task(add, (2, 3), countdown=0.1, expires=30)
        print(await result.get(timeout=10), await result.state())

        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.1)
        result = await celery.send_task("proj.tasks.add", (2,), {"y": 3}, eta=soon)
        print(await result)  # with the client's own timeout, 30 seconds

        # The worker's exception comes as data, with its traceback as text.
        try:
            await celery.call("proj.tasks.divide", (1, 0), timeout=10)
        except TaskFailedError as error:
            print(error.exc_type, error.exc_args)


asyncio.run(main())

# Prints:
# 5
# 5
# 5
# 5 SUCCESS
# 5
# ZeroDivisionError ('division by zero',)
