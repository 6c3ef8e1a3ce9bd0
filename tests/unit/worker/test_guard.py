"""`protect` on apps of one's own: what of theirs stays, what is protected, and when it refuses."""

import dataclasses
import importlib
import pickle
import pkgutil
import re
import types
from pathlib import Path

import pytest
from celery import Celery, Task, _state, shared_task
from celery.app.amqp import AMQP
from celery.concurrency.prefork import TaskPool
from celery.exceptions import ImproperlyConfigured, SecurityError
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.connection import Connection
from kombu.transport import redis
from support.pools import POOLS, lacking

from fibo_worker import guard
from fibo_worker.guard import GuardSettings, protect, protections
from fibo_worker.guard.pools import guarded_pool
from fibo_worker.guard.protections import PROTECTIONS, check_start
from fibo_worker.guard.qos import LossCountingQoS
from fibo_worker.guard.requests import _GuardedRequest
from fibo_worker.guard.transport import _ValidatingChannel

URL = "redis://localhost:1"


def add(x, y):
    return x + y


class OwnRequest(Request):
    pass


class OwnTask(Task):
    Request = OwnRequest


class OwnConsumer(Consumer):
    pass


class OwnQoS(redis.QoS):
    pass


class OwnChannel(redis.Channel):
    QoS = OwnQoS


class OwnTransport(redis.Transport):
    Channel = OwnChannel


class OwnConnection(Connection):
    pass


class OwnAMQP(AMQP):
    Connection = OwnConnection


@pytest.fixture
def made(monkeypatch):
    """Make apps, and forget them and their shared tasks at the end."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    monkeypatch.setattr(_state, "_task_join_will_block", False)  # A worker sets it, for its process.
    apps = []

    def make(*args, **options):
        apps.append(Celery("shop", *args, broker=URL, set_as_current=False, **options))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


def requests(app):
    """Let a worker, which connects to nothing, make its strategies; tell the class of each task's requests."""
    worker = app.WorkController(concurrency=1)
    worker.consumer.update_strategies()
    return {name: task.Request for name, task in app.tasks.items()}


def test_it_returns_the_same_app_with_one_object_more_beside_how_it_is_pickled(made):
    app, settings = made(), GuardSettings(max_memory=100)
    before = set(vars(app))

    assert protect(app, settings=settings) is app
    assert set(vars(app)) - before == {"fibo_guard", "__reduce__"}
    assert app.fibo_guard.settings is settings


def test_without_settings_it_reads_the_environment(made, monkeypatch):
    monkeypatch.setenv("FIBO_MAX_MEMORY", "123")
    assert protect(made()).fibo_guard.settings.max_memory == 123

    monkeypatch.setenv("FIBO_MAX_MEMORY", "much")
    with pytest.raises(ImproperlyConfigured, match=r"^FIBO_MAX_MEMORY must be a whole number"):
        protect(made())


def test_a_request_of_every_task_is_guarded_however_the_task_was_made(made):
    app = made(task_cls=OwnTask)
    app.task(add, name="before", shared=False)
    protect(app)
    app.task(add, name="after", shared=False)
    app.task(add, name="base", base=Task, shared=False)
    app.task(add, name="request", Request=OwnRequest, shared=False)
    app.register_task(type("Registered", (Task,), {"name": "registered", "run": add})())
    found = requests(app)

    assert all(issubclass(each, _GuardedRequest) for each in found.values())
    assert {name for name, each in found.items() if issubclass(each, OwnRequest)} >= {"before", "after", "request"}
    assert not issubclass(found["base"], OwnRequest)
    assert isinstance(app.tasks["after"], OwnTask)


def test_another_app_of_the_process_stays_as_it_is(made):
    protected, other = protect(made()), made()

    @shared_task(name="shared")
    def shared():
        pass

    assert issubclass(requests(protected)["shared"], _GuardedRequest)
    assert requests(other)["shared"] == Task.Request == "celery.worker.request:Request"
    assert other.connection_for_read().get_transport_cls() is redis.Transport
    assert not other.conf.task_acks_late


def test_a_consumer_of_ones_own_stays(made):
    app = protect(made())
    app.conf.worker_consumer = OwnConsumer
    worker = app.WorkController(concurrency=1)

    assert isinstance(worker.consumer, OwnConsumer)
    assert all(issubclass(each, _GuardedRequest) for each in requests(app).values())


def test_an_amqp_a_connection_and_a_transport_of_ones_own_stay(made):
    app = protect(made(amqp=OwnAMQP))
    app.conf.broker_transport = OwnTransport
    connection = app.connection_for_read()
    channel = connection.get_transport_cls().Channel

    assert isinstance(app.amqp, OwnAMQP)
    assert isinstance(connection, OwnConnection)
    assert issubclass(channel, _ValidatingChannel)
    assert issubclass(channel, OwnChannel)
    assert issubclass(channel.QoS, LossCountingQoS)
    assert issubclass(channel.QoS, OwnQoS)


@pytest.mark.parametrize(
    "configure",
    [
        lambda app: app.conf.update(task_acks_late=False),
        lambda app: app.config_from_object(types.SimpleNamespace(task_acks_late=False)),
        lambda app: app.config_from_object({"CELERY_TASK_ACKS_LATE": False}, namespace="CELERY"),
        lambda app: app.config_from_object({"CELERY_ACKS_LATE": False, "CELERY_SEND_EVENTS": True}),
    ],
    ids=["update", "module", "namespace", "old names"],
)
@pytest.mark.parametrize("protected_first", [True, False])
@pytest.mark.parametrize("read_first", [True, False])
def test_a_setting_of_ones_own_wins_and_the_rest_are_the_guards(made, configure, protected_first, read_first):
    app = made()
    for step in (protect, configure) if protected_first else (configure, protect):
        if read_first:
            assert app.conf.timezone is None
        step(app)

    assert app.conf.task_acks_late is False
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.accept_content == ["json"]
    assert app.conf.worker_max_memory_per_child == 1024 * 1024


def test_lost_messages_are_looked_for_often_whatever_the_app_says_of_the_transport(made):
    app = protect(made())
    assert app.connection_for_read().transport_options["unacked_restore_throttle"] == 1

    app.conf.broker_transport_options = {"visibility_timeout": 30}
    for connection in (app.connection_for_read(), app.connection_for_read().clone()):
        assert (
            connection.transport_options.items()
            >= {
                "visibility_timeout": 30,
                "unacked_restore_interval": 3.0,
                "unacked_restore_throttle": 1,
                "unacked_mutex_expire": 3.0,
            }.items()
        )
    app.conf.broker_transport_options = {"unacked_restore_interval": 1}
    assert app.connection_for_read().transport_options["unacked_restore_interval"] == 1


def test_an_app_that_is_handed_to_another_process_is_protected_there(made):
    app = protect(made(amqp=OwnAMQP), settings=GuardSettings(max_memory=321), without={"validation"})
    app.conf.task_time_limit = 7
    again = pickle.loads(pickle.dumps(app))

    assert again is not app
    assert isinstance(again.amqp, OwnAMQP)
    assert issubclass(again.connection_for_read().get_transport_cls().Channel, _ValidatingChannel)
    assert (again.fibo_guard.settings, again.fibo_guard.without) == (app.fibo_guard.settings, {"validation"})
    assert (again.conf.task_time_limit, again.conf.worker_max_memory_per_child) == (7, 321 * 1024 // 4)
    assert again.conf.broker_url == app.conf.broker_url
    again.close()


def test_a_second_protection_is_refused(made):
    app = protect(made())
    with pytest.raises(RuntimeError, match="called twice"):
        protect(app)


@pytest.mark.parametrize(
    "use", [lambda app: app.tasks, lambda app: app.Task, lambda app: app.connection_for_write(), lambda app: app.amqp]
)
def test_an_app_that_is_in_use_is_refused(made, use):
    app = made()
    use(app)
    with pytest.raises(RuntimeError, match=r"too late: .* app = protect\(Celery\(\.\.\.\)\)$"):
        protect(app)


@pytest.mark.parametrize("without", ["no-such", {"no-such"}, ["validation", "no-such"]])
def test_an_unknown_protection_cannot_be_left_out(made, without):
    with pytest.raises(
        ImproperlyConfigured, match=r"^no such protection: no-such. There are: validation, redelivery, "
    ):
        protect(made(), without=without)


@pytest.mark.parametrize("name", PROTECTIONS)
def test_a_protection_that_lacks_something_in_celery_or_kombu_is_missed_at_once_unless_left_out(
    made, monkeypatch, name
):
    broken = dataclasses.replace(PROTECTIONS[name], hooks=("kombu.transport.redis:Channel.gone",))
    monkeypatch.setattr(protections, "PROTECTIONS", {**PROTECTIONS, name: broken})

    with pytest.raises(ImproperlyConfigured) as caught:
        protect(made())
    assert str(caught.value).startswith(
        f"The protection {name!r} cannot be had: kombu.transport.redis:Channel.gone is missing in celery 5."
    )
    assert f"protect(app, without={{{name!r}}})" in str(caught.value)
    assert not protect(made(), without={name}).fibo_guard.has(name)


@pytest.mark.parametrize(
    ("name", "setting"), [(each.name, setting) for each in PROTECTIONS.values() for setting in each.settings]
)
def test_a_worker_whose_settings_take_a_protection_away_does_not_start_unless_it_is_left_out(made, name, setting):
    value = ["json", "yaml"] if setting == "accept_content" else False
    app = protect(made())
    app.conf[setting] = value
    with pytest.raises(
        ImproperlyConfigured, match=rf"^The protection '{name}' cannot .* needs the setting {setting} ="
    ):
        app.WorkController(concurrency=1)

    app = protect(made(), without={name})
    assert app.conf[setting] != PROTECTIONS[name].settings[setting]
    app.conf[setting] = value
    assert app.WorkController(concurrency=1)


def test_a_worker_without_redis_does_not_start_unless_what_needs_it_is_left_out(made):
    needs_redis = [each.name for each in PROTECTIONS.values() if each.redis]
    app = protect(made())
    app.conf.broker_url = "memory://"
    with pytest.raises(ImproperlyConfigured) as caught:
        app.WorkController(concurrency=1)
    assert re.findall("'([a-z-]+)' cannot be had: it needs Redis as the broker, not memory", str(caught.value)) == (
        needs_redis
    )

    app = protect(made(), without=needs_redis)
    app.conf.broker_url = "memory://"
    assert app.WorkController(concurrency=1)


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_a_worker_whose_pool_takes_protections_away_does_not_start_unless_they_are_left_out(made, pool):
    with pytest.raises(ImproperlyConfigured) as caught:
        check_start(protect(made()), (), pool)
    assert isinstance(caught.value, SecurityError)  # Celery's command tells it without a traceback.
    *lines, advice = str(caught.value).splitlines()
    names = [line.split("'")[1] for line in lines]
    assert names == lacking(pool)
    for name, line in zip(names, lines, strict=True):
        assert line.endswith(f", not {pool}. Without it, {PROTECTIONS[name].against}.")
    assert advice.endswith(f"FIBO_WITHOUT={','.join(lacking(pool))}")

    check_start(protect(made()), lacking(pool), pool)


def test_a_process_whose_end_the_pool_has_seen_is_not_watched_again(made):
    guarded = guarded_pool(TaskPool, protect(made()).fibo_guard)
    assert (guarded.__name__, guarded.__module__) == ("TaskPool", TaskPool.__module__)
    watched, pool = [], object.__new__(guarded.Pool)
    hub = types.SimpleNamespace(add_reader=lambda fd, *_: watched.append(fd))
    for seen in (None, 7):
        pool._track_child_process(types.SimpleNamespace(_sentinel_poll=seen), hub)
    assert watched == [7]


def test_the_docstring_names_every_protection():
    assert re.findall("``([a-z-]+)``", protect.__doc__) == list(PROTECTIONS)


def test_the_page_tells_of_every_protection_what_it_is_against_and_what_it_needs():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "protect.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, re.MULTILINE))

    assert list(rows) == list(PROTECTIONS)
    for each in PROTECTIONS.values():
        against, needs, pools = rows[each.name].split(" | ")
        assert against == each.against
        assert re.findall("`([a-z_]+) = ", needs) == list(each.settings)
        assert ("Redis" in needs) == each.redis
        assert pools == ("all" if each.pools == set(POOLS) else ", ".join(f"`{pool}`" for pool in sorted(each.pools)))


def test_every_method_of_celery_and_kombu_that_the_guard_replaces_is_a_hook_of_a_protection():
    """So that `protect` misses it in a version that has no such method, where the guard's would never be called."""
    modules = [
        importlib.import_module(f"fibo_worker.guard.{each.name}") for each in pkgutil.iter_modules(guard.__path__)
    ]
    classes = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    ours = {each for each in classes if each.__module__.startswith("fibo_worker.")}
    replaced = {
        name
        for each in ours
        for base in each.__mro__[1:]
        if base.__module__.startswith(("celery.", "kombu."))
        for name in vars(each).keys() & vars(base).keys()
        if not (name.startswith("__") or base.__module__ == "celery.bootsteps")
    }
    hooks = {hook.rpartition(".")[2] for each in PROTECTIONS.values() for hook in each.hooks}

    # Where these are missing, no protection is: the first does nothing but keep kombu 5.7 from it, the second counts,
    # and the third is for the readiness file.
    assert replaced - hooks == {"maybe_check_brpop_health", "on_timeout", "stop"}
