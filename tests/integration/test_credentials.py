"""Who a client is: credential providers of every kind, and credentials that change while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback

import pytest
from redis.credentials import CredentialProvider, StreamingCredentialProvider
from support.servers import RedisServer
from support.waiting import eventually

from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.errors import PublishError, ResultTimeoutError, TransportError

USER = "celery-user"
MOST_CONNECTIONS = 3


@pytest.fixture
async def user(hand):
    """Changes the password of a user, who may do everything."""

    async def change(password):
        await hand.redis.acl_setuser(
            USER, enabled=True, reset_passwords=True, passwords=[f"+{password}"], keys=["*"], channels=["*"],
            categories=["+@all"],
        )  # fmt: skip

    await change("first-secret")
    yield change
    await hand.redis.acl_deluser(USER)


def client_of(server, provider, **settings):
    return CeleryClient(server.database(0), redis=RedisOptions(credential_provider=provider), **settings)


async def used(client):
    """Use every connection of a client."""
    await client.send_task("nobody.knows")
    await client.queue_depth()
    with contextlib.suppress(ResultTimeoutError):
        await client.result("nothing-of-anybody").get(timeout=0.1)


async def ids(hand):
    """The ids of the user's connections."""
    return {each["id"] for each in await hand.redis.client_list() if each["user"] == USER}


class Sync(CredentialProvider):
    """Gives the same credentials, from code that may block."""

    def __init__(self, *credentials) -> None:
        self.credentials = credentials
        self.threads = []

    def get_credentials(self):
        self.threads.append(threading.current_thread())
        return self.credentials


class Async(CredentialProvider):
    """Gives the same credentials, from a coroutine. The other method is not to be called."""

    def __init__(self, *credentials) -> None:
        self.credentials = credentials

    def get_credentials(self):
        raise AssertionError("the other one is there")

    async def get_credentials_async(self):
        await asyncio.sleep(0)
        return self.credentials


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_a_provider_gives_user_and_password_to_every_connection(server, hand, user, kind):
    async with client_of(server, kind(USER, "first-secret")) as client:
        await used(client)
        assert len(await ids(hand)) == MOST_CONNECTIONS == len(await hand.connections())


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_a_provider_may_give_a_password_alone(kind):
    with RedisServer(password="lone-secret") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        async with CeleryClient(url, redis=RedisOptions(credential_provider=kind("lone-secret"))) as client:
            await used(client)
        async with CeleryClient(url, redis=RedisOptions(credential_provider=kind("wrong-secret"))) as client:
            with pytest.raises(PublishError, match="WRONGPASS") as caught:
                await client.send_task("nobody.knows")
    assert "secret" not in str(caught.value)


async def test_a_provider_that_blocks_holds_nobody_up(server, user):
    class Blocking(Sync):
        def get_credentials(self):
            assert may_go_on.wait(20), "the event loop is held up"
            return super().get_credentials()

    may_go_on = threading.Event()
    provider = Blocking(USER, "first-secret")
    async with client_of(server, provider) as client:
        sending = asyncio.create_task(client.send_task("nobody.knows"))
        await asyncio.sleep(0.05)  # The loop has its turn while the provider blocks.
        assert not sending.done()
        may_go_on.set()
        await sending
    assert threading.main_thread() not in provider.threads


async def test_a_provider_that_hangs_is_called_once_and_takes_no_thread_of_the_application(server, user):
    class Hanging(Sync):
        def get_credentials(self):
            super().get_credentials()
            assert may_go_on.wait(60)
            return self.credentials

    may_go_on = threading.Event()
    provider = Hanging(USER, "first-secret")
    async with (
        client_of(server, provider, io_timeout=0.05) as client,
        client_of(server, provider, io_timeout=0.05) as other,
    ):
        for _ in range(20):
            with pytest.raises(TransportError, match="no connection within"):
                await client.queue_depth()
        with pytest.raises(TransportError, match="no connection within"):
            await other.queue_depth()
        assert len(provider.threads) == 1
        assert provider.threads[0].daemon
        await asyncio.wait_for(asyncio.to_thread(int), 10)
        may_go_on.set()
        provider.threads[0].join(10)

    async with client_of(server, provider) as client:
        assert await client.queue_depth() == 0
    assert len(provider.threads) == 2


async def test_a_provider_that_takes_too_long_costs_the_time_limit_only(server, user):
    class Slow(Async):
        async def get_credentials_async(self):
            await asyncio.sleep(60)

    began = time.monotonic()
    async with client_of(server, Slow(), io_timeout=0.2) as client:
        with pytest.raises(PublishError, match="no connection within") as caught:
            await client.send_task("nobody.knows")
    assert not caught.value.refused
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_a_provider_that_raises_is_named_without_what_it_says(server, kind):
    class Raising(kind):
        def get_credentials(self):
            raise LookupError("no token for hush-secret")

        async def get_credentials_async(self):
            raise LookupError("no token for hush-secret")

    async with client_of(server, Raising()) as client:
        with pytest.raises(PublishError, match="credential_provider: it raised LookupError") as caught:
            await client.send_task("nobody.knows")
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert not caught.value.refused


@pytest.mark.parametrize("given", [(None, "first-secret"), None, 5, (USER, None)])
async def test_a_provider_that_gives_no_credentials_is_a_failure_to_connect(server, user, given):
    class Odd(Async):
        async def get_credentials_async(self):
            return given

    async with client_of(server, Odd()) as client:
        with pytest.raises(PublishError, match="credential_provider: it ") as caught:
            await client.send_task("nobody.knows")
        with pytest.raises(TransportError, match="credential_provider: it "):
            await client.queue_depth()
    assert "first-secret" not in "".join(traceback.format_exception(caught.value))


# Credentials that change.


class Token:
    """What such a provider tells."""

    def __init__(self, user, value) -> None:
        self._user = user
        self._value = value

    def try_get(self, key):
        return self._user if key == "oid" else None

    def get_value(self):
        return self._value


class Streaming(StreamingCredentialProvider):
    """Gives credentials, and tells of new ones. As those of clouds, it has one listener."""

    def __init__(self, password) -> None:
        self.password = password
        self.listener = None
        self.listeners = 0

    def get_credentials(self):
        return (USER, self.password)

    def on_next(self, callback):
        self.listener = callback
        self.listeners += 1

    def on_error(self, callback):
        pass

    def is_streaming(self):
        return True

    def tell(self, password):
        self.password = password
        return self.listener(Token(USER, password))


async def auths(hand, among):
    """The last command of each of these connections."""
    return [each["cmd"] for each in await hand.redis.client_list() if each["id"] in among]


async def last_were_auths(hand, among):
    seen = await auths(hand, among)
    return len(seen) == len(among) and set(seen) == {"auth"}


@pytest.mark.parametrize("thread", [False, True], ids=["from the loop", "from a thread"])
async def test_a_new_token_is_sent_on_every_open_connection_and_none_is_replaced(server, hand, user, thread):
    provider = Streaming("first-secret")
    async with client_of(server, provider) as client:
        await used(client)
        before = await ids(hand)
        assert len(before) == MOST_CONNECTIONS
        await user("second-secret")
        if thread:
            await asyncio.to_thread(provider.tell, "second-secret")
        else:
            await provider.tell("second-secret")  # Some providers await what a listener gives.
        await eventually(lambda: last_were_auths(hand, before))
        await used(client)
        assert await ids(hand) == before
        assert client.stats().reconnects == 0


async def test_a_token_that_is_refused_closes_the_connections_and_new_ones_have_the_provider_asked(server, hand, user):
    provider = Streaming("first-secret")
    async with client_of(server, provider) as client:
        await used(client)
        before = await ids(hand)
        provider.tell("refused-secret")
        provider.password = "first-secret"

        async def gone():
            return not before & await ids(hand)

        await eventually(gone)
        await used(client)
        assert len(await ids(hand)) == MOST_CONNECTIONS


async def test_a_token_that_comes_while_a_connection_is_made_is_sent_on_it_too(server, hand, user):
    class Renewing(Streaming):
        """Gives credentials that are renewed before they are used."""

        async def get_credentials_async(self):
            given = self.get_credentials()
            if self.password == "first-secret":
                self.tell("second-secret")
                await asyncio.sleep(0.01)  # The word of it arrives.
            return given

    provider = Renewing("first-secret")
    await hand.redis.acl_setuser(USER, enabled=True, passwords=["+second-secret"])

    async def auth_calls():
        return (await hand.redis.info("commandstats")).get("cmdstat_auth", {}).get("calls", 0)

    before = await auth_calls()
    async with client_of(server, provider) as client:
        await client.queue_depth()
        assert await auth_calls() == before + 2
        assert len(await ids(hand)) == 1


async def test_two_clients_that_share_a_provider_are_both_told(server, hand, user):
    provider = Streaming("first-secret")
    async with client_of(server, provider) as client, client_of(server, provider) as other:
        await asyncio.gather(used(client), used(other))
        before = await ids(hand)
        assert len(before) == 2 * MOST_CONNECTIONS
        assert provider.listeners == 1
        await user("second-secret")
        provider.tell("second-secret")
        await eventually(lambda: last_were_auths(hand, before))
        await asyncio.gather(used(client), used(other))
        assert await ids(hand) == before


async def test_a_client_that_is_closed_is_told_nothing_any_more_and_the_others_are(server, hand, user):
    provider = Streaming("first-secret")
    async with client_of(server, provider) as client:
        async with client_of(server, provider) as other:
            await used(other)
        await used(client)
        before = await ids(hand)
        assert len(before) == MOST_CONNECTIONS
        await user("second-secret")
        await asyncio.to_thread(provider.tell, "second-secret")
        await eventually(lambda: last_were_auths(hand, before))
    provider.tell("third-secret")


def test_a_token_that_comes_when_the_event_loop_is_closed_reaches_nobody(server):
    provider = Streaming("first-secret")

    async def main():
        async with client_of(server, provider) as client:
            with contextlib.suppress(PublishError):  # There is no such user.
                await client.send_task("nobody.knows")
        return client

    client = asyncio.run(main())
    provider.tell("second-secret")
    assert client is not None


async def test_over_resp2_a_subscribed_connection_that_cannot_take_a_token_is_replaced(server, hand, user):
    provider = Streaming("first-secret")
    url = f"{server.database(0)}?protocol=2"
    async with CeleryClient(url, redis=RedisOptions(credential_provider=provider)) as client:
        await used(client)
        waiting = asyncio.create_task(client.result("a").get(timeout=20))
        await eventually(hand.channels)
        await user("second-secret")
        provider.tell("second-secret")
        before = await ids(hand)

        async def replaced():
            return len(await ids(hand) - before) == 1 and await hand.channels()

        await eventually(replaced)
        await hand.put("a", result=1)
        assert await waiting == 1
