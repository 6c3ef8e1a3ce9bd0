"""How a protected app stores results on a real Redis: in one round trip, and by Celery's rules."""

import json
import logging

import pytest
import redis
from celery import Celery

from fibo_worker.guard import protect

# Celery's own, where it stores in two round trips.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

KEY = "celery-task-meta-x"


@pytest.fixture
def direct(server):
    with server.client(decode_responses=True) as direct:
        direct.flushall()
        direct.acl_setuser("limited", reset=True)
        yield direct


def app_of(url, without=(), **conf):
    app = protect(Celery("shop", broker=url, backend=url, set_as_current=False), without=without)
    app.conf.update(conf)
    return app


@pytest.fixture
def backend(server, direct):
    with app_of(server.url) as app:
        app.backend.store_result("warm", 0, "SUCCESS")
        direct.config_resetstat()
        yield app.backend


def state(direct):
    return json.loads(direct.get(KEY))["status"]


def test_a_result_is_stored_and_published_in_one_round_trip(direct, backend):
    with direct.pubsub() as ear:
        ear.subscribe(KEY)
        assert ear.get_message(timeout=5)["type"] == "subscribe"
        backend.store_result("x", 1, "SUCCESS")
        published = ear.get_message(timeout=5)["data"]
        assert ear.get_message(timeout=0) is None
    assert published == direct.get(KEY)
    assert json.loads(published)["result"] == 1
    assert 0 < direct.ttl(KEY) <= 24 * 3600


def test_nothing_else_is_said_for_a_result(direct, backend):
    backend.store_result("x", 1, "SUCCESS")
    stats = direct.info("commandstats")
    said = {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "get", "multi", "setex")}
    assert said == {"evalsha": 1, "get": 0, "multi": 0, "setex": 0}


@pytest.mark.parametrize("without", [(), ("round-trips",)], ids=["script", "plain"])
@pytest.mark.parametrize("first", ["STARTED", "RETRY", "FAILURE", "PROGRESS"])
def test_a_result_takes_the_place_of_whatever_is_no_success(server, direct, first, without):
    with app_of(server.url, without) as app:
        app.backend.store_result("x", ValueError("no") if first in ("RETRY", "FAILURE") else None, first)
        assert state(direct) == first
        app.backend.store_result("x", 1, "SUCCESS")
        assert state(direct) == "SUCCESS"


@pytest.mark.parametrize("without", [(), ("round-trips",)], ids=["script", "plain"])
def test_a_success_is_neither_overwritten_nor_published_again(server, direct, without):
    with app_of(server.url, without) as app, direct.pubsub() as ear:
        app.backend.store_result("x", 1, "SUCCESS")
        ear.subscribe(KEY)
        assert ear.get_message(timeout=5)["type"] == "subscribe"
        app.backend.store_result("x", 2, "SUCCESS")
        app.backend.store_result("x", ValueError("no"), "FAILURE")
        assert json.loads(direct.get(KEY))["result"] == 1
        assert ear.get_message(timeout=0.1) is None


def test_the_script_is_loaded_again_where_the_server_has_forgotten_it(direct, backend):
    direct.script_flush()
    backend.store_result("x", 1, "SUCCESS")
    assert state(direct) == "SUCCESS"


def test_a_connection_that_was_closed_meanwhile_is_replaced_without_a_word(direct, backend, caplog):
    direct.client_kill_filter(_type="normal", skipme=True)
    with caplog.at_level(logging.INFO):
        backend.store_result("x", 1, "SUCCESS")
    assert state(direct) == "SUCCESS"
    assert not caplog.records


@pytest.mark.parametrize("words", [["-evalsha"], ["-script"], ["-evalsha", "-script"]], ids=" ".join)
def test_where_scripts_are_refused_results_take_two_round_trips_and_it_is_said_once(server, direct, caplog, words):
    direct.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "+@all", *words, "~*", "&*")
    direct.script_flush()
    with app_of(server.url.replace("://", "://limited:pw@")) as app:
        app.backend.store_result("x", None, "STARTED")
        app.backend.store_result("x", 1, "SUCCESS")
        app.backend.store_result("x", 2, "SUCCESS")
    assert json.loads(direct.get(KEY))["result"] == 1
    assert sum("refuses a script" in each.getMessage() for each in caplog.records) == 1


def test_a_full_redis_is_told_as_such_and_the_result_is_tried_again(direct, backend, caplog):
    direct.config_set("maxmemory", "1")
    try:
        backend.retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            backend._store_result("x", 1, "SUCCESS")
    finally:
        direct.config_set("maxmemory", "0")
    assert "Retry (0/1)" in caplog.text
    backend.store_result("x", 1, "SUCCESS")
    assert state(direct) == "SUCCESS"


def test_a_key_of_a_wrong_type_is_overwritten(direct, backend):
    direct.lpush(KEY, "no result")
    backend.store_result("x", 1, "SUCCESS")
    assert state(direct) == "SUCCESS"


def test_a_result_without_an_expiry_has_none(server, direct):
    with app_of(server.url, result_expires=None) as app:
        app.backend.store_result("x", 1, "SUCCESS")
    assert direct.ttl(KEY) == -1


def test_the_prefix_of_results_is_kept(server, direct):
    with app_of(server.url, result_backend_transport_options={"global_keyprefix": "mine"}) as app:
        app.backend.store_result("x", 1, "SUCCESS")
    assert direct.keys("*x") == [f"mine_{KEY}"]


def test_what_is_asked_outside_of_storing_is_asked(backend):
    backend.store_result("x", 1, "SUCCESS")
    assert backend._get_task_meta_for("x")["status"] == "SUCCESS"
