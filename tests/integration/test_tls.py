"""TLS for real: a test's own authority, servers with good and bad certificates, a worker, a Sentinel."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import ssl
import subprocess
import time
import traceback
from urllib.parse import quote

import pytest
from cryptography import x509
from support.ca import Authority, speaks_tls, tls_options, tls_relay, tls_server
from support.servers import free_port
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.errors import PublishError
from fibo_worker.dev import WorkerProcess, find_redis_server

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    """The authority that clients trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def good(ca):
    """A certificate for this machine."""
    return ca.sign("good", HOST, "localhost")


@pytest.fixture(scope="module")
def secure(ca, good):
    """A Redis with a good certificate, and its TLS port."""
    with tls_server(good, ca.cert) as started:
        yield started


@pytest.fixture(scope="module")
def wary(ca, good):
    """The TLS port of a Redis that wants clients to have certificates."""
    with tls_server(good, ca.cert, clients=True) as (_, port):
        yield port


async def send(url, *, io_timeout=5.0, **options):
    async with CeleryClient(url, io_timeout=io_timeout, redis=RedisOptions(**options)) as client:
        await client.send_task("nobody.knows", queue="letters")
        return await client.queue_depth("letters")


async def refusal(url, **settings):
    with pytest.raises(PublishError) as caught:
        await send(url, **settings)
    return str(caught.value)


async def test_a_server_with_a_good_certificate_is_used(secure, ca):
    url = f"rediss://{HOST}:{secure[1]}/1"
    assert await send(url, ssl_ca_certs=str(ca.cert)) == 1
    assert await send(f"{url}?ssl_ca_certs={ca.cert}") == 2
    assert await send(f"rediss://localhost:{secure[1]}/1?ssl_ca_certs={ca.cert}") == 3


async def test_without_an_authority_that_vouches_for_it_a_server_is_refused(secure, stranger):
    url = f"rediss://{HOST}:{secure[1]}/0"
    for settings in ({}, {"ssl_ca_certs": str(stranger.cert)}):
        said = await refusal(url, **settings)
        assert "certificate verify failed" in said
        assert said.endswith("Give the authority that signed it: ssl_ca_certs.")


async def test_a_certificate_that_vouches_for_itself_is_refused_unless_it_is_given_as_authority(ca):
    pair = ca.own("itself", HOST)
    with tls_server(pair, pair.cert) as (_, port):
        assert "Give the authority" in await refusal(f"rediss://{HOST}:{port}/0")
        assert await send(f"rediss://{HOST}:{port}/0", ssl_ca_certs=str(pair.cert)) == 1


async def test_ssl_cert_reqs_none_asks_for_no_certificate_at_all(secure):
    assert await send(f"rediss://{HOST}:{secure[1]}/2?ssl_cert_reqs=none") == 1


async def test_a_certificate_for_another_host_is_refused_unless_told_otherwise(ca):
    with tls_server(ca.sign("elsewhere", "redis.example", "127.0.0.2"), ca.cert) as (_, port):
        url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={ca.cert}"
        assert (await refusal(url)).endswith("Connect by a name that the server's certificate has.")
        assert await send(url, ssl_check_hostname=False) == 1


async def test_an_expired_certificate_is_refused_whatever_host_it_is_for(ca):
    with tls_server(ca.sign("old", HOST, expired=True), ca.cert) as (_, port):
        url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={ca.cert}"
        for settings in ({}, {"ssl_check_hostname": False}):
            said = await refusal(url, **settings)
            assert "certificate has expired" in said
            assert "must be renewed" in said


async def test_a_client_shows_its_certificate_to_a_server_that_wants_one(wary, ca):
    mine = ca.sign("mine", "client.example")
    settings = {"ssl_ca_certs": str(ca.cert), "ssl_certfile": str(mine.cert), "ssl_keyfile": str(mine.key)}
    assert await send(f"rediss://{HOST}:{wary}/0", **settings) == 1


async def test_a_client_without_a_certificate_or_with_a_wrong_one_is_told_what_is_missing(wary, ca, stranger):
    url = f"rediss://{HOST}:{wary}/1?ssl_ca_certs={ca.cert}"
    assert "ssl_certfile" in await refusal(url)
    theirs, mine = stranger.sign("theirs", "client.example"), ca.sign("another", "client.example")
    said = await refusal(url, ssl_certfile=str(theirs.cert), ssl_keyfile=str(theirs.key))
    assert "ssl_certfile" in said
    said = await refusal(url, ssl_certfile=str(mine.cert), ssl_keyfile=str(theirs.key))
    assert "ssl_certfile or ssl_keyfile: " in said


async def test_a_file_that_is_not_there_is_not_taken_for_a_socket(secure):
    said = await refusal(f"rediss://{HOST}:{secure[1]}/0", ssl_ca_certs="/nowhere/ca.pem")
    assert said.endswith("ssl_ca_certs: there is no such file")


async def test_authorities_may_be_given_as_text_or_as_a_directory(secure, ca, stranger, tmp_path):
    url = f"rediss://{HOST}:{secure[1]}/5"
    text = ca.cert.read_text()
    assert await send(url, ssl_ca_data=text) == 1
    assert await send(f"{url}?ssl_ca_data={quote(text)}") == 2
    assert "Give the authority" in await refusal(url, ssl_ca_data=stranger.cert.read_text())
    assert "Give the authority" in await refusal(url, ssl_ca_path=str(tmp_path))
    shutil.copy(ca.cert, tmp_path / f"{name_hash(ca.cert)}.0")
    assert await send(url, ssl_ca_path=str(tmp_path)) == 3


def name_hash(path):
    """The name, without its ending, under which OpenSSL looks for an authority in a directory: X509_NAME_hash."""
    canonical = b""
    for attribute in x509.load_pem_x509_certificate(path.read_bytes()).subject:
        text = " ".join(attribute.value.lower().split())
        encoded = x509.Name([x509.NameAttribute(attribute.oid, text)]).public_bytes()
        canonical += encoded[2:]  # Without the head of the sequence, whose length has one byte.
    return f"{int.from_bytes(hashlib.sha1(canonical, usedforsecurity=False).digest()[:4], 'little'):08x}"


async def negotiated(url, **options):
    """The version of TLS and the cipher of a connection."""
    broker, _ = connect(CeleryConfig(broker_url=url, redis=RedisOptions(**options)))
    await broker.prepare()
    spoken = broker._redis.sending._connection._transport.get_extra_info("ssl_object")
    await broker.aclose()
    return spoken.version(), spoken.cipher()[0]


async def test_the_oldest_tls_and_the_ciphers_that_are_spoken_are_as_given(secure, ca, good):
    ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    settings = {"ssl_ca_certs": str(ca.cert)}
    with tls_relay(secure[0].port, good, ca.cert, newest=ssl.TLSVersion.TLSv1_2) as port:
        url = f"rediss://{HOST}:{port}/0"
        assert (await negotiated(url, **settings))[0] == "TLSv1.2"
        assert (await negotiated(url, **settings, ssl_min_version=771))[0] == "TLSv1.2"
        assert (await negotiated(url, **settings, ssl_ciphers=ciphers))[1] in ciphers.split(":")
        assert (await negotiated(f"{url}?ssl_ciphers=AES256-GCM-SHA384:{ciphers}", **settings))[1] in ciphers.split(":")
        said = await refusal(url, **settings, ssl_min_version=ssl.TLSVersion.TLSv1_3)
        assert "protocol version" in said.lower().replace("_", " ")
    with tls_relay(secure[0].port, good, ca.cert) as port:
        assert (await negotiated(f"rediss://{HOST}:{port}/0?ssl_min_version=772", **settings))[0] == "TLSv1.3"


async def test_the_key_of_a_clients_certificate_may_be_encrypted(wary, ca):
    mine = ca.encrypted("locked", ca.sign("lockable", "client.example"), "open-sesame")
    url = f"rediss://{HOST}:{wary}/6"
    settings = {"ssl_ca_certs": str(ca.cert), "ssl_certfile": str(mine.cert), "ssl_keyfile": str(mine.key)}
    assert await send(url, **settings, ssl_password="open-sesame") == 1
    for wrong in ({}, {"ssl_password": "close-sesame"}):
        with pytest.raises(PublishError, match="ssl_certfile or ssl_keyfile: ") as caught:
            await send(url, **settings, **wrong)
        assert "sesame" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ssl_ciphers", "NO-SUCH-CIPHER"), ("ssl_ca_data", "no certificate"), ("ssl_ca_certs", __file__),
        ("ssl_ca_certs", "/"), ("ssl_certfile", __file__), ("ssl_certfile", "/nowhere/cert.pem"),
    ],
)  # fmt: skip
async def test_a_setting_that_makes_no_sense_is_named(secure, setting, value):
    said = await refusal(f"rediss://{HOST}:{secure[1]}/0", **{setting: value})
    assert f"/0: {setting}: " in said


@pytest.mark.parametrize("mistake", ["plain to TLS", "TLS to plain"])
async def test_the_wrong_one_of_two_ports_is_said_within_the_io_timeout(secure, ca, mistake):
    server, port = secure
    url = f"redis://{HOST}:{port}/0" if mistake == "plain to TLS" else f"rediss://{HOST}:{server.port}/0"
    began = time.monotonic()
    said = await refusal(url, io_timeout=1.0, **({} if url.startswith("redis:") else {"ssl_ca_certs": str(ca.cert)}))
    assert "TLS?" in said
    assert time.monotonic() - began < 3  # io_timeout, and room for a busy machine


async def test_client_and_worker_meet_over_tls_that_both_have_verified(secure, ca):
    url = f"rediss://{HOST}:{secure[1]}/3?ssl_ca_certs={ca.cert}"
    with WorkerProcess(url, stop_timeout=0) as worker:
        async with FiboClient(url) as client:
            assert await client.fibonacci_many([4, 3, 8, 6, 10], timeout=20) == [3, 2, 21, 8, 55]
            assert len(await client.celery.ping()) == 1
        assert "insecure" not in worker.log.read_text()


@pytest.fixture
def sentinel(secure, ca, good, tmp_path):
    """The port of a Sentinel that speaks TLS only, and that knows the Redis by its TLS port."""
    port = free_port()
    settings = {"bind": HOST, "dir": tmp_path, "sentinel monitor mymaster": f"{HOST} {secure[1]} 1"}
    if speaks_tls():
        settings |= tls_options(good, ca.cert) | {"port": "0", "tls-port": port, "tls-replication": "yes"}
    else:  # It does not reach the Redis, and must not be sure of that yet.
        settings |= {"port": port, "sentinel down-after-milliseconds mymaster": 3_600_000}
    conf = tmp_path / "sentinel.conf"
    conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([find_redis_server(), conf, "--sentinel"], stdout=subprocess.DEVNULL)
        )
        stack.callback(process.terminate)
        yield port if speaks_tls() else stack.enter_context(tls_relay(port, good, ca.cert))


async def test_sentinel_and_the_redis_it_names_are_reached_over_tls(sentinel, secure, ca):
    url = f"sentinel://{HOST}:{sentinel}/4"
    settings = {"master_name": "mymaster", "ssl_ca_certs": str(ca.cert)}

    async def answers():
        try:
            return await send(url, **settings)
        except PublishError:
            return None

    await eventually(answers)
    assert await send(f"{url}?ssl_ca_certs={ca.cert}", master_name="mymaster") >= 2
    with secure[0].client(secure[0].database(4)) as direct:
        assert direct.llen("letters") >= 2
    for wrong in ({"ssl_cert_reqs": "required"}, {}):
        assert "Sentinel" in await refusal(url, master_name="mymaster", io_timeout=2.0, **wrong)
