import ssl

import pytest
from celery import Celery

from fibo_client.contract import DEFAULT_MAX_N
from fibo_client.errors import ConfigError
from fibo_worker.app import create_app
from fibo_worker.settings import WorkerSettings


def conf(**env):
    return WorkerSettings.from_env(env).celery_conf()


def test_an_empty_environment_gives_the_documented_defaults():
    settings = WorkerSettings.from_env({})

    assert settings == WorkerSettings()
    assert settings.max_n == DEFAULT_MAX_N
    assert settings.broker_url == "redis://localhost:6379/0"
    given = settings.celery_conf()
    assert given["broker_url"] == given["result_backend"] == "redis://localhost:6379/0"
    assert (given["task_time_limit"], given["task_soft_time_limit"], given["result_expires"]) == (
        120,
        110,
        3600,
    )
    assert given["broker_transport_options"] == {"visibility_timeout": 180}


def test_every_variable_reaches_the_configuration():
    settings = WorkerSettings.from_env(
        {
            "CELERY_BROKER_URL": "redis://a/1",
            "CELERY_RESULT_BACKEND": "redis://b/2",
            "FIBO_MAX_N": "7",
            "FIBO_TIME_LIMIT": "20",
            "FIBO_SOFT_TIME_LIMIT": "10",
            "FIBO_VISIBILITY_TIMEOUT": "30",
            "FIBO_RESULT_EXPIRES": "40",
            "FIBO_MAX_MEMORY": "800",
        }
    )

    given = settings.celery_conf()
    assert settings.max_n == 7
    assert (given["broker_url"], given["result_backend"]) == ("redis://a/1", "redis://b/2")
    assert (given["task_time_limit"], given["task_soft_time_limit"]) == (20, 10)
    assert given["broker_transport_options"]["visibility_timeout"] == 30
    assert (settings.max_memory, create_app(settings).conf.worker_max_memory_per_child) == (800, 800 * 1024 // 4)
    assert given["result_expires"] == 40


def test_metrics_are_served_where_the_environment_says_and_else_not_at_all():
    assert WorkerSettings.from_env({}).metrics_port is None
    settings = WorkerSettings.from_env({"FIBO_METRICS_PORT": "9808", "FIBO_METRICS_HOST": "0.0.0.0"})
    assert (settings.metrics_port, settings.metrics_host) == (9808, "0.0.0.0")
    assert WorkerSettings.from_env({"FIBO_METRICS_PORT": "9808"}).metrics_host == "127.0.0.1"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "many"])
def test_a_port_for_metrics_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match=r"^FIBO_METRICS_PORT must be a "):
        WorkerSettings.from_env({"FIBO_METRICS_PORT": port})


def test_only_an_app_with_a_port_for_metrics_has_the_part_that_serves_them():
    def steps(settings):
        return {each.name for each in create_app(settings).steps["worker"]}

    assert steps(WorkerSettings(metrics_port=9808)) - steps(WorkerSettings()) == {"fibo-metrics"}


def test_an_empty_variable_counts_as_not_set():
    assert WorkerSettings.from_env({"CELERY_BROKER_URL": "", "FIBO_MAX_N": ""}) == WorkerSettings()


def test_the_worker_reads_tasks_where_celery_would():
    settings = WorkerSettings.from_env({"CELERY_BROKER_URL": "redis://a", "CELERY_BROKER_READ_URL": "redis://reader"})

    assert settings.broker_url == "redis://reader"


def test_celery_knows_every_setting_and_nothing_but_json_is_accepted():
    app = create_app(WorkerSettings())

    unknown = set(WorkerSettings().celery_conf()) - set(app.conf.keys())
    assert not unknown
    assert app.conf.accept_content == app.conf.result_accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
    assert app.conf.task_acks_late is True
    assert app.conf.worker_max_memory_per_child == 1024 * 1024
    assert app.conf.worker_prefetch_multiplier == 1
    assert not app.conf.task_track_started


@pytest.mark.parametrize(
    "variable",
    [
        "FIBO_MAX_N",
        "FIBO_TIME_LIMIT",
        "FIBO_SOFT_TIME_LIMIT",
        "FIBO_VISIBILITY_TIMEOUT",
        "FIBO_RESULT_EXPIRES",
        "FIBO_DEAD_LETTER_LIMIT",
        "FIBO_DEAD_LETTER_BYTES",
        "FIBO_DEAD_LETTER_EXPIRES",
        "FIBO_MAX_BODY_BYTES",
    ],
)
@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "1e3"])
def test_a_number_that_is_none_is_refused_by_the_name_of_its_variable(variable, text):
    with pytest.raises(ConfigError, match=f"^{variable} must be a whole number"):
        WorkerSettings.from_env({variable: text})


def test_a_bound_of_bytes_that_is_too_small_for_one_dead_letter_is_refused():
    with pytest.raises(ConfigError, match=r"^FIBO_DEAD_LETTER_BYTES must be at least 65536, not 65535$"):
        WorkerSettings.from_env({"FIBO_DEAD_LETTER_BYTES": "65535"})


def test_a_limit_beyond_what_a_result_can_hold_is_refused():
    with pytest.raises(ConfigError, match=r"^FIBO_MAX_N must be at most"):
        WorkerSettings.from_env({"FIBO_MAX_N": "1000000001"})


@pytest.mark.parametrize("visibility", ["120", "119"])
def test_a_visibility_timeout_within_the_time_limit_is_refused(visibility):
    with pytest.raises(ConfigError, match=r"FIBO_VISIBILITY_TIMEOUT=\d+ must be more than FIBO_TIME_LIMIT=120"):
        WorkerSettings.from_env({"FIBO_VISIBILITY_TIMEOUT": visibility})


def test_a_soft_limit_that_is_not_below_the_hard_one_is_refused():
    with pytest.raises(ConfigError, match="FIBO_SOFT_TIME_LIMIT=120 must be less than FIBO_TIME_LIMIT=120"):
        WorkerSettings.from_env({"FIBO_SOFT_TIME_LIMIT": "120"})


@pytest.mark.parametrize("variable", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_BROKER_WRITE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "amqp://user:hunter2@host",
        "unix:///tmp/hunter2",
        "redis://user:hun/ter2@host",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@host/name",
        "rediss://:hunter2@host?ssl_cert_reqs=hunter2",
        "redis://:hunter2@a;rediss://b",
    ],
)
def test_a_wrong_url_is_refused_by_the_name_of_its_variable_and_without_its_password(variable, url):
    with pytest.raises(ConfigError, match=f"^{variable} ") as caught:
        WorkerSettings.from_env({variable: url})

    assert "hunter2" not in str(caught.value)
    assert "ter2" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://user:p%40ss@h:1/2",
        "redis://[::1]:6379/0",
        "rediss://h?ssl_cert_reqs=required",
        "redis+socket:///run/redis.sock?virtual_host=3",
        "sentinel://a:26379/0;sentinel://b:26379/0",
    ],
)
def test_every_kind_of_url_that_celery_takes_for_redis_is_accepted(url):
    env = {"CELERY_BROKER_URL": url, "FIBO_MASTER_NAME": "mymaster"}

    assert WorkerSettings.from_env(env).celery_conf()["result_backend"] == url


def test_sentinels_are_asked_for_the_master_by_its_name():
    given = conf(CELERY_BROKER_URL="sentinel://a:26379/0", FIBO_MASTER_NAME="mymaster")

    assert given["broker_transport_options"]["master_name"] == "mymaster"
    assert given["result_backend_transport_options"] == {"master_name": "mymaster"}


@pytest.mark.parametrize("variable", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
def test_sentinels_without_the_name_of_a_master_are_refused(variable):
    with pytest.raises(ConfigError, match=r"^FIBO_MASTER_NAME must be"):
        WorkerSettings.from_env({variable: "sentinel://a:26379/0"})


def test_a_list_of_brokers_needs_a_result_backend_of_its_own():
    with pytest.raises(ConfigError, match=r"^CELERY_RESULT_BACKEND must be set"):
        conf(CELERY_BROKER_URL="redis://a;redis://b")

    assert conf(CELERY_BROKER_URL="redis://a;redis://b", CELERY_RESULT_BACKEND="redis://a")


def test_passwords_are_not_in_the_repr():
    settings = WorkerSettings(broker_url="redis://:hunter2@h", result_backend="redis://:hunter3@h")

    assert "hunter" not in repr(settings)


class TestTls:
    @pytest.fixture(autouse=True)
    def warnings_of_kombu(self, caplog):
        yield
        assert "insecure" not in caplog.text

    def app(self, url) -> Celery:
        return create_app(WorkerSettings(broker_url=url))

    @pytest.mark.parametrize(
        "url", ["rediss://h", "rediss://h?ssl_ca_certs=/ca.pem", "rediss://h?ssl_cert_reqs=required"]
    )
    def test_broker_and_results_check_certificates_by_default(self, url):
        app = self.app(url)

        # What is missing here is "required" by redis-py's own default.
        assert app.connection_for_read().ssl.get("ssl_cert_reqs", ssl.CERT_REQUIRED) == ssl.CERT_REQUIRED
        assert app.connection_for_write().ssl.get("ssl_cert_reqs", ssl.CERT_REQUIRED) == ssl.CERT_REQUIRED
        assert app.backend.connparams["ssl_cert_reqs"] == ssl.CERT_REQUIRED

    def test_the_authorities_that_a_url_names_are_used(self):
        app = self.app("rediss://h?ssl_ca_certs=/ca.pem")

        assert app.connection_for_read().ssl["ssl_ca_certs"] == "/ca.pem"
        assert app.backend.connparams["ssl_ca_certs"] == "/ca.pem"

    def test_a_url_that_says_so_switches_the_check_off(self):
        app = self.app("rediss://h?ssl_cert_reqs=none")

        assert app.connection_for_read().ssl["ssl_cert_reqs"] == ssl.CERT_NONE
        assert app.backend.connparams["ssl_cert_reqs"] == ssl.CERT_NONE

    def test_a_plain_url_uses_no_tls(self):
        assert not {"broker_use_ssl", "redis_backend_use_ssl"} & set(conf(CELERY_BROKER_URL="redis://h"))


def test_celerys_own_settings_pass_through_by_their_names_and_types():
    app = create_app(
        WorkerSettings.from_env(
            {
                "CELERY_WORKER_ETA_TASK_LIMIT": "10",
                "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "12.5",
                "CELERY_WORKER_SEND_TASK_EVENTS": "true",
                "CELERY_WORKER_PREFETCH_MULTIPLIER": "4",
                "CELERY_TASK_DEFAULT_QUEUE": "math",
                "CELERY_REDIS_SOCKET_TIMEOUT": "20",
                "CELERY_BROKER_TRANSPORT_OPTIONS": '{"global_keyprefix": "mine:"}',
                "CELERY_BROKER_POOL_LIMIT": "",
            }
        )
    )
    assert app.conf.worker_eta_task_limit == 10
    assert app.conf.worker_soft_shutdown_timeout == 12.5
    assert app.conf.worker_send_task_events is True
    assert app.conf.worker_prefetch_multiplier == 4
    assert app.conf.task_default_queue == "math"
    assert app.conf.redis_socket_timeout == 20
    assert app.conf.broker_transport_options == {"visibility_timeout": 180, "global_keyprefix": "mine:"}
    assert app.conf.broker_pool_limit == Celery(set_as_current=False).conf.broker_pool_limit


def test_a_variable_of_no_setting_is_no_matter():
    assert not WorkerSettings.from_env(
        {"CELERY_WORKER_PORT": "tcp://10.0.0.1:80", "CELERY_WORKER_NONSENSE": "1"}
    ).celery


@pytest.mark.parametrize(
    ("variable", "text", "what"),
    [
        ("CELERY_WORKER_ETA_TASK_LIMIT", "secret", "must be a whole number"),
        ("CELERY_WORKER_SEND_TASK_EVENTS", "secret", "must be true or false"),
        ("CELERY_BROKER_TRANSPORT_OPTIONS", "[1]", "must be a JSON object"),
        ("CELERY_TASK_TIME_LIMIT", "5", "is FIBO_TIME_LIMIT here"),
        ("CELERY_TASK_SERIALIZER", "pickle", "nothing but JSON"),
    ],
)
def test_a_setting_of_celery_that_cannot_be_had_is_refused_without_its_value(variable, text, what):
    with pytest.raises(ConfigError, match=f"^{variable} .*{what}") as caught:
        WorkerSettings.from_env({variable: text})
    assert "secret" not in str(caught.value)
