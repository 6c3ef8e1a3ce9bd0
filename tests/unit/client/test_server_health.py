from fibo_client.celery.server_health import CALM, MOMENT, ServerHealth


def test_an_outage_is_told_once_and_its_end_once_with_what_it_cost():
    health = ServerHealth("redis://here:6379/0")
    lines = [health.failed(10 + k, "redis://here:6379/0: refused", certain=True) for k in range(50)]
    assert lines == ["redis://here:6379/0 is gone, trying again: refused"] + [None] * 49
    told = health.worked(70.0)
    assert told == "redis://here:6379/0 is back after 60.0 s, in which 50 tries failed"
    assert health.worked(71.0) is None


def test_connections_that_break_together_are_no_outage_but_silence_afterwards_is():
    health = ServerHealth("here")
    assert [health.failed(5.0, "lost", certain=False) for _ in range(10)] == [None] * 10
    assert health.failed(5.0 + MOMENT, "lost", certain=False) is not None
    calm = ServerHealth("here")
    calm.failed(5.0, "lost", certain=False)
    assert calm.worked(5.1) is None
    assert calm.failed(5.0 + MOMENT, "lost", certain=False) is None


def test_a_server_that_flickers_does_not_fill_the_log():
    health = ServerHealth("here")
    lines = []
    for step in range(1000):
        lines += [health.failed(step / 10, "refused", certain=True), health.worked(step / 10 + 0.05)]
    assert 2 <= len([line for line in lines if line]) <= 2 * (100 / CALM + 1)


def test_only_a_connection_in_place_of_a_broken_one_is_a_reconnection():
    health = ServerHealth("here")
    health.connected()
    health.connected()
    assert health.reconnects == 0
    health.broke()
    health.connected()
    health.connected()
    assert health.reconnects == 1
