"""What a type checker shows of what users write: the type in each comment. Nothing here is run."""

# mypy: disable-error-code="empty-body"

from typing import Any, Literal, reveal_type

from fibo_client import FIBO_TASK, FIBONACCI, UNSET, AsyncResult, FiboClient, FiboConfig
from fibo_client.celery import CeleryClient, Flow, RemoteTask, Signature, chain, chord, group, remote_task

ADD = RemoteTask[[int, int], int]("proj.add")
ANY = RemoteTask[..., int]("proj.add")
BY_NAME = RemoteTask[..., Any]("proj.by_name")


@remote_task("proj.resize", queue="media", chunkable=True)
def resize(name: str, /, steps: int = 5, *, fit: Literal["in", "out"] = "in") -> str: ...


@remote_task("proj.colours", frozenset)
def colours(name: str) -> list[str]: ...


def first(answer: Any) -> bytes:
    return bytes(answer[0])


@remote_task("proj.first", first)
def first_of(*names: str, **options: int) -> list[int]: ...


@remote_task("proj.resize")
def resize_one(name: str) -> str: ...


class Own(FiboClient):
    """A client with something of its own."""


class General(CeleryClient):
    """Another one."""


reveal_type(ADD(2, 3))  # Signature[int]
reveal_type(FIBONACCI(5))  # Signature[int]
reveal_type(resize("dog", 3, fit="out"))  # Signature[str]
reveal_type(resize("dog").with_options(priority=3))  # Signature[str]
reveal_type(first_of("dog", "cat", size=3))  # Signature[bytes]
reveal_type(FiboConfig.from_env())  # FiboConfig


async def clients(flag: bool) -> None:
    async with Own() as own, General() as general:
        reveal_type(own)  # Own
        reveal_type(general)  # General
        reveal_type(own.celery)  # CeleryClient
    reveal_type(await Own().open())  # Own
    client = FiboClient(timeout=None, poll_max=None, max_n=5)
    reveal_type(client)  # FiboClient
    reveal_type(await client.fibonacci(5, timeout=UNSET))  # int
    reveal_type(await client.fibonacci_many([5]))  # list[int]
    reveal_type(await client.fibonacci_many([5], return_exceptions=False))  # list[int]
    reveal_type(await client.fibonacci_many([5], return_exceptions=flag))  # list[int | FiboError]
    reveal_type(client.stream([5]))  # Stream[int, int]
    async with client.stream([5], ordered=True) as results:
        reveal_type(results)  # Stream[int, int]
        async for pair in results:
            reveal_type(pair)  # tuple[int, int]
    async with client.stream([5], return_exceptions=True) as outcomes:
        async for n, outcome in outcomes:
            reveal_type(n)  # int
            reveal_type(outcome)  # int | Exception
    reveal_type(await client.submit(5))  # AsyncResult[int]
    reveal_type(await client.submit_many([5], task=FIBO_TASK))  # list[AsyncResult[tuple[int, str]]]


async def calls(celery: CeleryClient, flag: bool) -> None:
    reveal_type(await celery.call(ADD, (2, 3), timeout=None))  # int
    reveal_type(await celery.call(ADD(2, 3)))  # int
    reveal_type(await celery.call(ANY(2, y=3)))  # int
    reveal_type(await celery.call("proj.add", (2, 3)))  # Any
    reveal_type(await celery.call_many([ADD(2, 3)]))  # list[int]
    reveal_type(await celery.call_many([ADD(2, 3)], return_exceptions=flag))  # list[int | FiboError]
    reveal_type(await celery.send_task(ADD, (2, 3)))  # AsyncResult[int]
    reveal_type(await celery.send_many([ADD(2, 3)]))  # list[AsyncResult[int]]
    reveal_type(celery.start(ADD(2, 3)))  # OwnedResult[int]
    reveal_type(celery.start("proj.add", (2, 3)))  # OwnedResult[Any]
    async with celery.start(ADD, (2, 3)) as started:
        reveal_type(await started.get())  # int


async def handles(celery: CeleryClient, handle: AsyncResult[int], bare: AsyncResult[Any], flag: bool) -> None:
    reveal_type(await handle)  # int
    reveal_type(await handle.get(timeout=2))  # int
    reveal_type(await bare.get())  # Any
    reveal_type(await handle.meta())  # TaskMeta
    reveal_type(await celery.metas([handle, bare]))  # list[TaskMeta]
    reveal_type(celery.result("an-id", ADD))  # AsyncResult[int]
    reveal_type(celery.result("an-id", "proj.add"))  # AsyncResult[Any]
    reveal_type(handle.updates())  # AsyncGenerator[TaskMeta, None]
    reveal_type(await handle.ready())  # bool
    reveal_type(await handle.state())  # str
    reveal_type(handle.cached)  # TaskMeta | None
    reveal_type(await celery.ready([handle]))  # list[bool]
    reveal_type(await celery.gather([handle]))  # list[int]
    reveal_type(await celery.gather([handle], return_exceptions=flag))  # list[int | FiboError]
    async for update in handle.updates():
        reveal_type(update)  # TaskMeta


async def declared(celery: CeleryClient, names: list[str], pairs: list[tuple[str, int]], flag: bool) -> None:
    reveal_type(await celery.call(resize("dog")))  # str
    reveal_type(await celery.call(chain(ADD(1, 2), resize("dog"))))  # str
    reveal_type(await celery.call(group(ADD(1, 2), ADD(3, 4))))  # list[int]
    reveal_type(await celery.call(chord([ADD(1, 2)], resize("dog"))))  # str
    reveal_type(await celery.call(ADD(1, 2) | resize("dog")))  # str
    reveal_type(resize.map(names))  # Signature[list[str]]
    reveal_type(await celery.call(resize.starmap(pairs)))  # list[str]
    reveal_type(resize.chunks(pairs, 10))  # Group[list[str]]
    reveal_type(await celery.call(resize.chunks(pairs, 10)))  # list[list[str]]
    reveal_type(chain(ADD(1, 2), resize("dog")).with_options(queue="media"))  # Chain[str]
    reveal_type(await celery.send(chain(ADD(1, 2), resize("dog"))))  # ChainResult[str]
    reveal_type(await celery.send(group(ADD(1, 2), ADD(3, 4))))  # GroupResult[int]
    reveal_type(await (await celery.send(group(ADD(1, 2)))).get(return_exceptions=flag))  # list[int | FiboError]
    reveal_type(await celery.send(chord([ADD(1, 2)], resize("dog"))))  # ChordResult[str]
    chains = [chain(ADD(1, 2), resize("dog"))]
    reveal_type(await celery.send_many(chains))  # list[ChainResult[str]]
    reveal_type(await celery.send_many([group(ADD(1, 2))]))  # list[GroupResult[int]]
    reveal_type(await celery.call_many(chains))  # list[str]
    reveal_type(await celery.call_many([group(ADD(1, 2))], return_exceptions=flag))  # list[list[int] | FiboError]
    reveal_type(await celery.gather(await celery.send_many(chains)))  # list[str]
    async for ended in celery.as_completed(await celery.send_many(chains)):
        reveal_type(ended)  # ChainResult[str]
    async with celery.start(chains[0]) as owned:
        reveal_type(owned)  # OwnedFlow[str]
        reveal_type(await owned)  # str
    reveal_type(celery.start(group(ADD(1, 2))))  # OwnedFlow[list[int]]
    reveal_type(celery.start(ADD(1, 2) | resize("dog")))  # OwnedResult[str] | OwnedFlow[str]
    async with celery.stream(lambda name: ADD(1, 2) | resize(name), names) as paths:
        async for _, path in paths:
            reveal_type(path)  # str
    reveal_type(await celery.call(resize, ("dog",), {"steps": 3}))  # str
    reveal_type(await celery.call(first_of("dog")))  # bytes
    reveal_type(await celery.send_task(resize, ("dog",)))  # AsyncResult[str]
    reveal_type(await celery.call_many([resize(name) for name in names], chunk_size=100))  # list[str]
    reveal_type(await celery.call_many([resize("a")], chunk_size=9, return_exceptions=flag))  # list[str | FiboError]
    reveal_type(await celery.queue_depth(resize))  # int
    async with celery.stream(resize_one, names, chunk_size=10) as answers:
        async for answer in answers:
            reveal_type(answer)  # tuple[str, str]
    reveal_type(celery.stream(resize, names))  # Stream[str, str]
    reveal_type(celery.stream(first_of, names, chunk_size=10))  # Stream[str, bytes]
    reveal_type(celery.stream(ANY, names))  # Stream[str, int]
    async with celery.stream(lambda pair: resize(pair[0], pair[1]), pairs) as more:
        async for answered in more:
            reveal_type(answered)  # tuple[tuple[str, int], str]
    async with celery.stream("proj.resize", names, return_exceptions=True) as outcomes:
        async for outcome in outcomes:
            reveal_type(outcome)  # tuple[str, Any]
    async with celery.stream(resize_one, names, return_exceptions=True) as errors:
        async for name, error in errors:
            reveal_type(name)  # str
            reveal_type(error)  # str | Exception
    async for result in celery.as_completed(await celery.send_many([resize("a"), resize("b")])):
        reveal_type(result)  # AsyncResult[str]


async def handed_out(
    celery: CeleryClient, tasks: list[Signature[int]], by_name: list[Signature[Any]], flows: list[Flow[int]]
) -> None:
    reveal_type(await celery.send_many(tasks))  # list[AsyncResult[int]]
    reveal_type(await celery.send_many(by_name))  # list[AsyncResult[Any]]
    reveal_type(await celery.send_many([BY_NAME(1), BY_NAME(2)]))  # list[AsyncResult[Any]]
    reveal_type(await celery.send_many(BY_NAME(n) for n in range(3)))  # list[AsyncResult[Any]]
    reveal_type(await celery.send_many([chain(BY_NAME(1), BY_NAME())]))  # list[ChainResult[Any]]
    reveal_type(await celery.send_many([group(BY_NAME(1), BY_NAME(2))]))  # list[GroupResult[Any]]
    reveal_type(await celery.send_many([chord([BY_NAME(1)], BY_NAME())]))  # list[ChordResult[Any]]
    reveal_type(await celery.send_many(flows))  # list[AsyncResult[int] | FlowResult[int]]
    reveal_type(await celery.send(flows[0]))  # AsyncResult[int] | FlowResult[int]
    reveal_type(await celery.send(BY_NAME(1)))  # AsyncResult[Any]
    reveal_type(await celery.send(chain(BY_NAME(1), BY_NAME())))  # ChainResult[Any]
    reveal_type(await celery.send(group(BY_NAME(1), BY_NAME(2))))  # GroupResult[Any]
    reveal_type(celery.start(BY_NAME(1)))  # OwnedResult[Any]
    reveal_type(celery.start(BY_NAME, (1,)))  # OwnedResult[Any]
    reveal_type(celery.start(chain(BY_NAME(1), BY_NAME())))  # OwnedFlow[Any]
    reveal_type(celery.start(group(BY_NAME(1), BY_NAME(2))))  # OwnedFlow[list[Any]]
    reveal_type(celery.start(flows[0]))  # OwnedResult[int] | OwnedFlow[int]
    reveal_type(await celery.gather(await celery.send_many(by_name)))  # list[Any]
    mixed = await celery.send_many([ADD(1, 2), chain(ADD(1, 2), ADD(3, 4))])
    reveal_type(await mixed[0].get())  # int
    reveal_type(await celery.gather(mixed))  # list[int]
