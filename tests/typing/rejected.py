"""What a type checker must refuse: every line marked ``# error``, and no other. Nothing here is run."""

# mypy: disable-error-code="empty-body"

from typing import Any

from fibo_client import FIBO_TASK, SQRT_TASK, AsyncResult, FiboClient, FiboConfig
from fibo_client.celery import CeleryClient, CeleryConfig, JSONType, RemoteTask, SendOptions, remote_task
from fibo_worker.app import create_app
from fibo_worker.dev import PrivateRedis, WorkerProcess, running
from fibo_worker.settings import WorkerSettings
from fibo_worker.tasks import register

ADD = RemoteTask[[int, int], int]("proj.add")


@remote_task("proj.resize", queue="media")
def resize(name: str, /, steps: int = 5, *, fast: bool = False) -> str: ...


@remote_task("proj.unique", frozenset)
def unique(*names: str) -> list[str]: ...


def the_clients() -> None:
    FiboClient(6379)  # error: a URL is text
    FiboClient(timeout="5")  # error: seconds are a number
    FiboClient(time_out=5)  # error: no such setting
    FiboClient(broker="redis://localhost")  # error: no such setting
    FiboClient(config=CeleryConfig())  # error: not the settings of this client
    FiboClient(config=FiboConfig(), max_n=1.5)  # error: n is an integer
    CeleryClient(max_n=5)  # error: not a setting of this client
    CeleryClient(push=None)  # error: yes or no
    CeleryConfig("redis://localhost")  # error: by keyword only
    CeleryConfig().timeout = 5  # error: settings are frozen
    CeleryClient(json_types=JSONType(set, "set", sorted, set))  # error: a list of them
    CeleryClient(json_types=[(set, "set", sorted, set)])  # error: a JSONType of that
    JSONType("set", "set", sorted)  # error: a class
    JSONType(set, 5, sorted)  # error: a marker is text
    JSONType(bytes, "b", str.upper)  # error: that encodes text


async def asynchronous(client: FiboClient, result: AsyncResult[int]) -> None:
    with client:  # error: async with
        pass
    for pair in client.stream([1]):  # error: async for
        print(pair)
    with client.stream([1]):  # error: async with
        pass
    await client  # error: not to be awaited
    if result.ready():  # error: not awaited
        pass
    while not result.state():  # error: not awaited
        pass
    all(client.ready([result]))  # error: not awaited
    client.ready([result])[0]  # error: not awaited
    await client.ready([client.submit(5)])  # error: not awaited
    await client.celery.gather([client.submit(5)])  # error: not awaited
    await client.fibonacci(client.fibonacci(5))  # error: not awaited
    print(client.fibonacci(5) + 1)  # error: not awaited


async def fibonacci_numbers(client: FiboClient) -> None:
    await client.fibonacci("10")  # error: n is an integer
    await client.fibonacci(10.0)  # error: n is an integer
    await client.fibonacci(10, 5)  # error: the timeout goes by keyword
    await client.fibonacci_many(10)  # error: many numbers
    await client.fibonacci_many(["10"])  # error: n is an integer
    await client.sqrt("2")  # error: a number
    await client.submit_many([1], task="tasks.fibo_task")  # error: not by name alone
    await client.submit_many([1], task=ADD)  # error: takes two numbers
    FIBO_TASK("4")  # error: n is an integer
    SQRT_TASK()  # error: nothing to take the root of


async def calling(celery: CeleryClient) -> None:
    await celery.call(ADD, 2, 3)  # error: arguments come as one sequence
    await celery.call(ADD(2))  # error: too few
    await celery.call(ADD(2, 3, 4))  # error: too many
    await celery.call(ADD(2, "3"))  # error: not an integer
    await celery.send(ADD, (2, 3))  # error: a signature
    await celery.send(ADD(2, 3).with_options(prioritiy=5))  # error: no such option
    RemoteTask("proj.add", prioritiy=5)  # error: no such option
    await celery.call(ADD, (2, 3), timeout="5")  # error: seconds are a number
    await celery.call(ADD, (2, 3), time_out=5)  # error: no such option
    await celery.call(ADD, (2, 3), prioritiy=5)  # error: no such option
    await celery.call(ADD, (2, 3), priority="high")  # error: a number
    await celery.call(5)  # error: not a task
    await celery.call_many([ADD])  # error: without its arguments
    text: str = await celery.call(ADD, (2, 3))  # error: it gives an integer
    print(text)


async def declared(celery: CeleryClient, numbers: list[int]) -> None:
    resize()  # error: a name is needed
    resize(5)  # error: a name is text
    resize(name="dog")  # error: by position only
    resize("dog", "3")  # error: steps are a number
    resize("dog", 3, True)  # error: fast goes by keyword
    resize("dog", stepz=3)  # error: no such argument
    resize("dog", fast=1.5)  # error: yes or no
    resize("dog", queue="media")  # error: an option is no argument
    unique("dog", 5)  # error: names are text
    await celery.call(resize("dog", steps=None))  # error: steps are a number
    length: int = await celery.call(resize("dog"))  # error: it gives text
    parts: list[str] = await celery.call(unique("dog"))  # error: decoded, it is something else
    celery.stream(resize, numbers)  # error: a name is text
    celery.stream(lambda number: resize(number), numbers)  # error: a name is text
    celery.stream(resize("dog"), ["dog"])  # error: without its arguments
    celery.stream(resize, 5)  # error: many inputs
    await celery.call_many([resize("dog")], chunk_size="5")  # error: a number
    resize.map(5)  # error: many values
    resize.starmap([1, 2])  # error: each is a sequence of arguments
    resize.chunks([("dog", 1)])  # error: how many in one message
    (resize("dog") | resize("cat")).with_options(queu="media")  # error: no such option
    for result in celery.as_completed([]):  # error: async for
        print(result)
    await celery.queue_depth(5)  # error: a name or a task
    remote_task(resize)  # error: the name is missing
    remote_task("proj.resize", queu="media")  # error: no such option
    RemoteTask("proj.resize", decode="text")  # error: a function
    CeleryClient(task_routes="mail")  # error: by what
    CeleryClient(task_routes={"mail.*": 5})  # error: a queue's name or options
    print(length, parts)


async def sending(celery: CeleryClient) -> None:
    await celery.send_task("proj.add", 2, 3)  # error: arguments come as one sequence
    await celery.send_task("proj.add", (2, 3), {4: 5})  # error: keywords are text
    await celery.send_task("proj.add", countdwn=5)  # error: no such option
    await celery.send_task("proj.add", eta="tomorrow")  # error: a moment
    await celery.send_many([ADD(*each) for each in [1, 2]])  # error: each is a sequence of arguments
    await celery.send("proj.add")  # error: a signature
    await celery.send_many(ADD(1, 2))  # error: many
    await celery.send_many([ADD(1, 2), "proj.add"])  # error: signatures
    number: AsyncResult[str] = await celery.send(ADD(1, 2))  # error: it gives an integer
    celery.start(ADD(1, 2), (3,))  # error: it has its arguments
    celery.start(5)  # error: not a task
    print(number)
    options: SendOptions = {"queue": "math", "prio": 1}  # error: no such option
    print(options)


async def results(result: AsyncResult[int]) -> None:
    text: str = await result  # error: it gives an integer
    await result.get("5")  # error: seconds are a number
    state: str = result.state()  # error: not awaited
    result.cached.state  # error: it may be None
    values: list[str] = [value async for value in result.updates()]  # error: metas
    print(text, state, values)


async def workers(celery: CeleryClient, anything: Any) -> None:
    await celery.inspect().activ()  # error: no such question
    await celery.ready([1])  # error: not a handle
    await celery.revoke(anything, signal=15)  # error: by its name


def hosting() -> None:
    create_app("redis://localhost")  # error: settings, no URL
    register(create_app(), 5)  # error: the limit goes by keyword
    WorkerSettings("redis://localhost")  # error: by keyword only
    WorkerSettings(max_n="5")  # error: n is an integer
    WorkerSettings().max_n = 5  # error: settings are frozen


async def for_real() -> None:
    running(6379)  # error: a URL is text
    running().url  # error: in a with block only
    async with running():  # error: with
        pass
    PrivateRedis().url = "redis://localhost"  # error: to be read only
    WorkerProcess("redis://localhost", loglevel="WARNING")  # error: it would not say when it is ready
    WorkerProcess("redis://localhost", concurency=2)  # error: no such option
