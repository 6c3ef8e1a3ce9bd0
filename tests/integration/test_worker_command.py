"""``fibo-worker health`` and ``dev`` on a Redis to which no worker listens."""

from support.fibo import fibo_worker


def test_health_is_1_if_there_is_a_redis_but_no_worker(redis_url):
    result = fibo_worker("health", "--timeout", "0.5", CELERY_BROKER_URL=redis_url)

    assert result.exit_code == 1
    assert "can be reached, but no worker answered in 0.5 seconds" in result.stderr
    assert "fibo-worker start" in result.stderr


def test_dev_says_which_port_is_taken(redis_server):
    result = fibo_worker("dev", "--port", str(redis_server.port))

    assert result.exit_code == 1
    assert "ddress already in use" in result.stderr
