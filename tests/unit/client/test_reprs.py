"""How public objects show themselves in a log or a debugger, and that their errors travel between processes."""

import copy
import pickle

import pytest

import fibo_client
import fibo_client.celery
from fibo_client import FIBONACCI, FIBONACCI_CHUNK, UNSET, FiboClient, FiboConfig, RedisOptions, errors
from fibo_client.celery import Cause, RemoteTask, TaskFailure, TaskMeta, WorkerInfo
from fibo_client.celery.config import CeleryConfig

SECRET = "Xyzzy"
URL = f"redis://bob:{SECRET}@localhost:6379/1"
HUGE = 10**5000
CLIENT = FiboClient(URL, f"redis://:{SECRET}@other:6380/2")

REPRS = [
    (
        CLIENT,
        f"<FiboClient over {CLIENT.celery!r}>",
    ),
    (
        CLIENT.celery,
        "<CeleryClient <RedisBroker at redis://localhost:6379/1> <RedisBackend at redis://other:6380/2>>",
    ),
    (CLIENT.celery.result("an-id", "proj.add"), "<AsyncResult proj.add[an-id], last seen PENDING>"),
    (CLIENT.stream([1, 2]), "<Stream of list, not begun>"),
    (CLIENT.celery.inspect(), "<Inspect all workers, within 1 s>"),
    (CLIENT.celery.inspect(["a@b", "c@d"], timeout=2.5), "<Inspect a@b, c@d, within 2.5 s>"),
    (FIBONACCI, "RemoteTask('fibo.fibonacci')"),
    (FIBONACCI(5), "<Signature fibo.fibonacci(5)>"),
    (FIBONACCI(HUGE), "<Signature fibo.fibonacci(<int>)>"),
    (RemoteTask[..., int]("add")(1, y="z"), "<Signature add(1, y='z')>"),
    (RemoteTask("log_in", argsrepr="('anna', ***)")("anna", SECRET), "<Signature log_in(*('anna', ***))>"),
    (RemoteTask("log_in", kwargsrepr="{***}")("anna", word=SECRET), "<Signature log_in('anna', **{***})>"),
    (TaskMeta(task_id="a", state="SUCCESS", result=HUGE), "TaskMeta(task_id='a', state='SUCCESS', result=<int>)"),
    (
        TaskFailure(exc_type="ValueError", exc_module="builtins", exc_args=("no",), traceback="Traceback ..." * 1000),
        "TaskFailure(exc_type='ValueError', exc_module='builtins', exc_args=('no',))",
    ),
    (WorkerInfo("celery@host"), "WorkerInfo(name='celery@host')"),
    (UNSET, "UNSET"),
    (Cause.GONE, "<Cause.GONE: 'gone'>"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), REPRS, ids=[text[:40] for _, text in REPRS])
def test_a_repr_says_what_it_is(value, text):
    assert repr(value) == text


@pytest.mark.parametrize(
    "value",
    [
        FIBONACCI_CHUNK(list(range(1000))),
        TaskMeta(task_id="a", state="SUCCESS", result="f" * 100_000, args=[1] * 1000),
        CLIENT.stats(),
    ],
    ids=["chunk", "meta", "stats"],
)
def test_a_repr_is_short_however_much_there_is(value):
    assert len(repr(value)) < 300


@pytest.mark.parametrize("config", [CeleryConfig, FiboConfig])
def test_the_repr_of_settings_has_no_url_and_no_password(config):
    text = repr(config(broker_url=URL, result_backend=URL, redis=RedisOptions(sentinel_password=SECRET)))
    assert SECRET not in text
    assert "redis://" not in text
    assert "timeout=30.0" in text
    assert len(text) < 1000


@pytest.mark.parametrize("package", [fibo_client, fibo_client.celery], ids=lambda package: package.__name__)
def test_a_package_holds_public_names_and_its_own_modules_only(package):
    found = {name: getattr(package, name) for name in dir(package) if not name.startswith("_")}
    modules = {
        name for name, value in found.items() if getattr(value, "__name__", "").startswith(package.__name__ + ".")
    }
    assert found.keys() - modules - set(package.__all__) == set()


FAILED = {"task_id": "a", "task": "t", "exc_type": "E", "exc_module": "m", "exc_args": ("x", 1), "traceback": "Trace"}
MADE = {
    "PublishError": lambda: errors.PublishError("gone", ["a", "b"], refused=True),
    "PublishUnknownError": lambda: errors.PublishUnknownError("gone", ["a"]),
    "NotReadyError": lambda: errors.NotReadyError(1.5),
    "TooManyPendingError": lambda: errors.TooManyPendingError(limit=1, pending=1, wanted=2),
    "ResultTimeoutError": lambda: errors.ResultTimeoutError(
        task="t", task_ids=["a"], state="PENDING", waited=1.0, queue="q", published=True, finished={0: HUGE}
    ),
    "TaskFailedError": lambda: errors.TaskFailedError(**FAILED),
    "TaskRevokedError": lambda: errors.TaskRevokedError(task_id="a", task="t", reason="expired"),
    "ChunkRetriedError": lambda: errors.ChunkRetriedError(task_id="a", task="t", info={"exc_type": "Retry"}),
}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_survives_pickling_and_copying_with_all_that_it_knows(name):
    error = MADE.get(name, lambda: getattr(errors, name)("what is wrong"))()
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is getattr(errors, name)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.__notes__ == error.__notes__
