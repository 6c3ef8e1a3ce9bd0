"""What users write, and what a type checker must make of it. Nothing here is run."""

# mypy: disable-error-code="empty-body"

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

from starlette.applications import Starlette

from fibo_client import (
    FIBO_TASK,
    FIBONACCI,
    FIBONACCI_CHUNK,
    SQRT_TASK,
    UNSET,
    AsyncResult,
    FiboClient,
    FiboConfig,
    FiboError,
    LoopLocal,
    RedisOptions,
    ResultTimeoutError,
    TaskFailedError,
)
from fibo_client.asgi import FiboMiddleware, Problem, Readiness
from fibo_client.celery import (
    CeleryClient,
    CeleryConfig,
    Diagnosis,
    FlowResult,
    JSONType,
    RemoteTask,
    SendOptions,
    Signature,
    TaskMeta,
    WorkerInfo,
    chain,
    remote_task,
)
from fibo_client.testing import FakeCelery, FakeFibo, FakeTask, SentTask, check_declared
from fibo_worker.app import app, create_app
from fibo_worker.dev import Environment, PrivateRedis, WorkerProcess, find_redis_server, running
from fibo_worker.settings import WorkerSettings
from fibo_worker.tasks import fibonacci_chunk, register

SECRETIVE = RemoteTask[[str, str], bool]("proj.log_in", argsrepr="(name, ***)")
ADD = RemoteTask[[int, int], int]("proj.add")
NAME = RemoteTask[[str], str]("proj.name", decode=str)


@remote_task("proj.resize", queue="media")
def resize(name: str, steps: int = 5) -> str: ...


def route(name: str, args: object, kwargs: object, options: object, task: object = None, **more: object) -> str | None:
    return "mail" if name.startswith("mail.") else None


async def routes() -> None:
    CeleryClient(task_routes={"mail.*": {"queue": "mail", "priority": 3}, "proj.add": "math"})
    CeleryClient(task_routes={re.compile("mail"): "mail", "proj.*": {"priority": 3}})
    CeleryClient(task_routes=route)
    CeleryClient(task_routes=[route, {"proj.add": "math"}, [("mail.*", "mail"), (re.compile("a"), {"queue": "a"})]])
    from_a_module = {"mail.*": {"queue": "mail"}}
    FiboClient(task_routes=(from_a_module,))
    assert_type(resize("dog", steps=3), Signature[str])
    assert_type(resize(name="dog"), Signature[str])


async def many_loops() -> None:
    assert_type(LoopLocal(CeleryClient), LoopLocal[CeleryClient])
    assert_type(await LoopLocal(CeleryClient).get(), CeleryClient)
    assert_type(await LoopLocal(lambda: FiboClient(queue="fibo")).get(), FiboClient)


async def services(client: FiboClient, error: FiboError) -> None:
    app = Starlette()
    app.add_middleware(FiboMiddleware)
    app.add_middleware(FiboMiddleware, cancel_on_disconnect=False)
    assert_type(await Readiness(client.celery, max_age=1).check(), list[WorkerInfo])
    assert_type(Problem.from_error(error).status, int)


async def the_clients() -> None:
    async with FiboClient() as client:
        assert_type(client, FiboClient)
        assert_type(client.celery, CeleryClient)
        assert_type(client.config, FiboConfig)
    FiboClient("redis://localhost", "redis://localhost/1", timeout=None, push=False, max_n=5, poll_max=0.2)
    FiboClient(config=FiboConfig(max_n=5), queue="fibo")
    FiboClient(timeout=5, redis=RedisOptions(priority_steps=(0, 9), result_prefix="a:", sentinel_password="b"))
    assert_type(FiboConfig.from_env({"CELERY_BROKER_URL": "redis://localhost"}), FiboConfig)
    async with CeleryClient("redis://localhost", config=CeleryConfig(timeout=5), io_timeout=1.5) as celery:
        assert_type(celery, CeleryClient)
    assert_type(await CeleryClient().open(), CeleryClient)


async def types_of_ones_own() -> None:
    sets = JSONType(frozenset, "set", sorted, frozenset)
    paths = JSONType(Path, None, str)
    assert_type(paths, JSONType[Path])
    CeleryClient(json_types=[sets, paths])
    FiboClient(json_types=[paths])
    assert_type(CeleryConfig(json_types=(paths,)).json_types[0], JSONType[Any])


async def fibonacci_numbers(client: FiboClient) -> None:
    assert_type(await client.fibonacci(10), int)
    assert_type(await client.fibonacci(10, timeout=None), int)
    assert_type(await client.fibonacci(10, timeout=UNSET), int)
    assert_type(await client.fibonacci_many([1, 2], timeout=5), list[int])
    assert_type(await client.fibonacci_many(n for n in range(5)), list[int])
    assert_type(await client.fibonacci_many([1], return_exceptions=True), list[int | FiboError])
    assert_type(await client.sqrt(2), float)
    assert_type(await client.fibo_task(4), tuple[int, str])
    assert_type(await client.submit(4), AsyncResult[int])
    assert_type(await client.submit(4, task=FIBO_TASK), AsyncResult[tuple[int, str]])
    assert_type(await client.submit_many({1, 2}), list[AsyncResult[int]])
    handles = await client.submit_many([1, 2], task=FIBO_TASK)
    assert_type(handles, list[AsyncResult[tuple[int, str]]])
    assert_type(await client.ready(handles), list[bool])
    assert_type(await client.celery.gather(handles, timeout=5), list[tuple[int, str]])
    assert_type(FIBONACCI(4), Signature[int])
    assert_type(SQRT_TASK(4), Signature[float])
    assert_type(await client.celery.call(FIBONACCI_CHUNK([1, 2])), list[int | TaskFailedError])


async def calling(celery: CeleryClient) -> None:
    assert_type(await celery.call(ADD, (2, 3)), int)
    assert_type(await celery.call(ADD, (2, 3), timeout=10, retry=True, queue="math", priority=3), int)
    assert_type(await celery.call(RemoteTask[[int, int], int]("x"), (2, 3), timeout=10), int)
    assert_type(await celery.call(ADD(2, 3), timeout=10), int)
    assert_type(await celery.call(NAME, ("a",)), str)
    assert_type(await celery.call("proj.add", (2, "3")), Any)
    assert_type(await celery.call(ADD(2, 3), expires=None), int)
    assert_type(await celery.call_many([ADD(1, 2), ADD(3, 4)]), list[int])


async def sending(celery: CeleryClient) -> None:
    assert_type(await celery.send_task(ADD, (2, 3), countdown=1.5), AsyncResult[int])
    assert_type(await celery.send(ADD(2, 3), expires=datetime.now(UTC)), AsyncResult[int])
    assert_type(await celery.send_task("proj.add", (2,), {"y": 3}, task_id="a"), AsyncResult[Any])
    assert_type(await celery.send_many([ADD(1, 2), ADD(3, 4)]), list[AsyncResult[int]])
    by_name = RemoteTask[..., Any]("proj.add", queue="math")
    await celery.send_many([by_name(1, y=2)], ignore_result=True)
    await celery.send_many([ADD(1, 2), chain(ADD(1, 2), by_name())])
    mixed: list[AsyncResult[int] | FlowResult[int]] = []
    mixed += await celery.send_many([ADD(1, 2), chain(ADD(1, 2), ADD(3, 4))])
    mixed += await celery.send_many(ADD(1, n) | ADD(3, n) for n in range(3))
    assert_type(await celery.send(ADD(2, 3).with_options(priority=3)), AsyncResult[int])
    assert_type(await celery.call(ADD, (2, 3), keep_result=True), int)
    assert_type(await celery.send(SECRETIVE("anna", "word"), ignore_result=None, argsrepr="***"), AsyncResult[bool])
    options: SendOptions = {"queue": "math", "time_limit": 5, "headers": {"a": 1}}
    assert_type(await celery.send_task("proj.add", (2, 3), **options), AsyncResult[Any])
    assert_type(celery.result("an id"), AsyncResult[Any])


async def results(result: AsyncResult[int]) -> None:
    assert_type(await result, int)
    assert_type(await result.get(timeout=None), int)
    assert_type(await result.ready(), bool)
    assert_type(await result.state(), str)
    assert_type(result.cached, TaskMeta | None)
    assert_type(await result.revoke(terminate=True), int)
    assert_type(await result.meta(), TaskMeta)
    wider: AsyncResult[object] = result  # A handle of a narrower answer will do.
    print(wider)
    async for update in result.updates(timeout=5):
        assert_type(update, TaskMeta)


async def workers(celery: CeleryClient, result: AsyncResult[int], late: ResultTimeoutError) -> None:
    assert_type(await celery.ping(timeout=2), list[WorkerInfo])
    assert_type(await celery.inspect(["celery@host"]).active(safe=True), dict[str, Any])
    assert_type(await celery.inspect().query_task("an id", result, [result, "another"]), dict[str, Any])
    assert_type(await celery.diagnose(result), Diagnosis)
    assert_type(await celery.diagnose(late), Diagnosis)
    assert_type(await celery.revoke([result, "an id"]), int)


async def errors(client: FiboClient) -> None:
    try:
        await client.fibonacci(10)
    except ResultTimeoutError as error:
        assert_type(error.finished, dict[int, Any])
        assert_type(error.task_ids, tuple[str, ...])
    except TaskFailedError as error:
        assert_type(error.exc_type, str)
        assert_type(error.info, Any)
    except FiboError:
        raise
    try:
        await client.fibonacci(10)
    except TimeoutError:
        pass


def doubles(fake: FakeCelery) -> None:
    FiboClient(transport=FakeFibo())
    CeleryClient("redis://localhost", transport=fake, timeout=5)
    fake.task("proj.add", lambda x, y: x + y, delay=0.1)
    fake.task(ADD, raises=ValueError("bad"))

    async def progress(task: FakeTask, steps: int) -> int:
        task.update_state(state="PROGRESS", meta={"step": 1})
        return steps

    fake.task("proj.progress", progress, bind=True)
    with fake.no_worker(), fake.redis_down(), fake.no_answer(arrives=True), fake.lost_pushes():
        assert_type(fake.assert_sent(ADD, 2, 3), SentTask)
        assert_type(fake.assert_sent_once(resize("dog", steps=3).with_options(queue="media")), SentTask)
        fake.assert_not_sent(resize, ...)
    check_declared([resize, ADD], {"proj.resize": resize, "proj.add": max})
    assert_type(fake.calls, list[SentTask])
    assert_type(fake.sent, list[SentTask])


def hosting() -> None:
    register(app)
    register(create_app(), max_n=5)
    register(create_app(WorkerSettings(max_n=5, metrics_port=9808)), max_n=5)
    assert_type(WorkerSettings.from_env({"FIBO_MAX_N": "5"}), WorkerSettings)
    assert_type(WorkerSettings().celery_conf(), dict[str, Any])
    assert_type(fibonacci_chunk([1, "2"]), list[str | dict[str, list[str]]])


def for_real() -> None:
    with running() as here, running("redis://localhost", app="proj.celery", queue="math", concurrency=1, port=0):
        assert_type(here, Environment)
        assert_type(here.redis, PrivateRedis | None)
        FiboClient(here.url, here.result_backend, queue=here.queue)
    with PrivateRedis(server=find_redis_server(), password="a") as redis:
        assert_type(redis, PrivateRedis)
        with WorkerProcess(redis.database(1), queues=["math"], loglevel="DEBUG", env={"A": "b"}) as worker:
            assert_type(worker, WorkerProcess)
            assert_type(worker.log, Path)
