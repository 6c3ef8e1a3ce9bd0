"""Settings: where they come from, which are refused, and what they do not show."""

from __future__ import annotations

import dataclasses
import os

import pytest
from support.own_types import MONEY

from fibo_client import ConfigError, FiboClient, FiboConfig, RedisOptions
from fibo_client.celery import UNSET, CeleryClient, CeleryConfig, JSONType


@pytest.mark.parametrize(
    ("env", "broker", "backend"),
    [
        ({}, "redis://localhost:6379/0", None),
        ({"CELERY_BROKER_URL": "redis://a/1"}, "redis://a/1", None),
        ({"CELERY_BROKER_URL": "redis://a/1", "CELERY_BROKER_WRITE_URL": "redis://w/1"}, "redis://w/1", None),
        ({"CELERY_BROKER_URL": "redis://a/1", "CELERY_RESULT_BACKEND": "redis://b/2"}, "redis://a/1", "redis://b/2"),
        ({"CELERY_BROKER_URL": "", "CELERY_RESULT_BACKEND": ""}, "redis://localhost:6379/0", None),
    ],
)
def test_the_urls_come_from_the_environment_by_celerys_names(env, broker, backend):
    config = CeleryConfig.from_env(env)
    assert (config.broker_url, config.result_backend) == (broker, backend)


def test_what_is_given_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env/1")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://env/2")
    assert CeleryClient().config.broker_url == "redis://env/1"
    assert CeleryClient(result_backend="redis://mine/3").config.broker_url == "redis://env/1"
    assert CeleryClient(result_backend="redis://mine/3").config.result_backend == "redis://mine/3"
    explicit = CeleryClient("redis://mine/1", timeout=3).config
    assert (explicit.broker_url, explicit.result_backend, explicit.timeout) == (
        "redis://mine/1",
        "redis://env/2",
        3,
    )


def test_a_config_is_taken_instead_of_the_environment_and_overrides_win_over_it(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env/1")
    config = FiboConfig(broker_url="redis://mine/1", queue="math", max_n=100)
    client = FiboClient(config=config, timeout=None)
    assert client.config == dataclasses.replace(config, timeout=None)
    assert client.celery.config is not None
    assert client.celery.config.queue == "math"
    assert FiboClient("redis://other/2", config=config).config.broker_url == "redis://other/2"


def test_the_config_of_another_client_is_refused():
    with pytest.raises(ConfigError, match="must be a FiboConfig, not CeleryConfig"):
        FiboClient(config=CeleryConfig())


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'time_out' is not a setting; the settings are: .*timeout"):
        CeleryClient(time_out=3)


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(RedisOptions)])
def test_an_option_of_redis_is_refused_as_a_setting_with_a_word_on_where_it_belongs(name):
    with pytest.raises(ConfigError, match=rf"'{name}' is not a setting; it is one of redis=RedisOptions\({name}="):
        CeleryClient(**{name: "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1), ("timeout", "3"), ("timeout", True), ("timeout", float("nan")), ("timeout", float("inf")),
        ("io_timeout", 0), ("io_timeout", -1), ("io_timeout", None), ("poll_min", 0), ("poll_max", 0.0001),
        ("push_limit", 0), ("push_limit", 2.5), ("push_limit", True), ("max_result_bytes", 10),
        ("queue", ""), ("queue", 3), ("control_exchange", ""), ("redis", None), ("redis", {"master_name": "cache"}),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        CeleryConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_name", ""), ("client_name", "a b"), ("client_name", "\u00e9"), ("client_name", 3),
        ("credential_provider", "os.Thing"), ("credential_provider", dict), ("credential_provider", object()),
        ("priority_separator", ""), ("broker_prefix", None), ("result_prefix", 3),
        ("priority_steps", ()), ("priority_steps", (1, 2)), ("priority_steps", (0, 3, 2)), ("priority_steps", (0, 12)),
        ("priority_steps", "0369"), ("priority_steps", (0, True)), ("fanout_prefix", None), ("fanout_prefix", 1),
        ("fanout_prefix", "/{vhost}."), ("fanout_prefix", "/{}."), ("fanout_prefix", "/{db."),
        ("fanout_prefix", "/{db.x}."),
    ],
)  # fmt: skip
def test_an_option_of_redis_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        RedisOptions(**{name: value})


TEXTS = [
    (kind, each.name) for kind in (FiboConfig, RedisOptions) for each in dataclasses.fields(kind) if "str" in each.type
]


@pytest.mark.parametrize(("kind", "name"), TEXTS)
def test_half_of_a_character_is_refused_in_each_setting_that_becomes_bytes(kind, name):
    with pytest.raises(ConfigError, match=f"{name} has half of a character in it") as caught:
        kind(**{name: "secret\ud800"})
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_name_of_a_file_may_be_no_utf_8():
    name = os.fsdecode(b"/etc/\xff.pem")
    assert RedisOptions(ssl_ca_certs=name).ssl_ca_certs == name


def test_an_environment_that_is_no_utf_8_is_refused():
    with pytest.raises(ConfigError, match="broker_url"):
        CeleryConfig.from_env({"CELERY_BROKER_URL": os.fsdecode(b"redis://:\xff@localhost")})


@pytest.mark.parametrize("value", [-1, 2.5, True, None])
def test_a_largest_number_that_makes_no_sense_is_refused(value):
    with pytest.raises(ConfigError, match="max_n"):
        FiboConfig(max_n=value)


@pytest.mark.parametrize("url", ["reids://localhost", "redis://localhost/abc", "redis://localhost:1/0?nonsense=1", ""])
def test_a_wrong_url_is_refused_at_construction(url):
    with pytest.raises(ConfigError, match="broker_url"):
        FiboClient(url)
    with pytest.raises(ConfigError, match="result_backend"):
        FiboClient("redis://localhost", url)


def test_a_setting_shows_no_url_and_no_password():
    config = FiboConfig(
        broker_url="redis://:secret1@h",
        result_backend="redis://:secret2@h",
        redis=RedisOptions(sentinel_password="secret3"),
    )
    assert "secret" not in repr(config)


def test_the_longest_pause_depends_on_push():
    assert CeleryConfig().longest_poll == 1.0
    assert CeleryConfig(push=False).longest_poll == 0.1
    assert CeleryConfig(push=False, poll_max=3.0).longest_poll == 3.0


def test_results_on_another_server_have_connections_of_their_own():
    one, two = CeleryClient("redis://a/0", "redis://a/0"), CeleryClient("redis://a/0", "redis://a/1")
    assert one._session.broker._redis is one._session.backend._server
    assert two._session.broker._redis is not two._session.backend._server


def test_unset_says_what_it_is():
    assert repr(UNSET) == "UNSET"


@pytest.mark.parametrize("chunk_size", [0, 1001, 2.0, True])
def test_a_chunk_size_that_is_none_is_refused(chunk_size):
    with pytest.raises(ConfigError, match="chunk_size"):
        FiboConfig(chunk_size=chunk_size)


@pytest.mark.parametrize("name", ["timeout", "io_timeout", "poll_max"])
def test_a_time_limit_beyond_all_dates_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}=.* must be at most"):
        FiboConfig(**{name: 1e12})


def test_types_are_checked_when_the_settings_are_made():
    money = JSONType(*MONEY)
    assert CeleryConfig(json_types=[money]).json_types == (money,)
    assert FiboClient(json_types=[money]).celery.config.json_types == (money,)
    assert "json_types=()" in repr(CeleryConfig())
    for wrong, reason in [(money, "a list of JSONTypes"), ([MONEY], "such as JSONType"), ([money, money], "two of")]:
        with pytest.raises(ConfigError, match=reason):
            CeleryClient(json_types=wrong)
