import dataclasses
import ssl
import string
import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fibo_client.celery.redis.address import RedisAddress, TLSOptions
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import ConfigError

OPTIONS = RedisOptions()
SENTINEL_OPTIONS = RedisOptions(master_name="mymaster")
SECRET = "Xyzzy"
ROLES = ["broker_url", "result_backend"]


def read(url, role="broker_url", **settings):
    return parse_url(url, RedisOptions(**settings), role=role)


def tcp(**fields):
    return RedisAddress(**{"kind": "tcp", "host": "localhost", "port": 6379, **fields})


def unix(**fields):
    return RedisAddress(**{"kind": "unix", "path": "/run/redis.sock", **fields})


def sentinel(*hosts, **fields):
    return RedisAddress(**{"kind": "sentinel", "hosts": hosts, "master_name": "mymaster", **fields})


def refusal(url, config=SENTINEL_OPTIONS, role="broker_url"):
    with pytest.raises(ConfigError) as caught:
        parse_url(url, config, role=role)
    return caught.value


def outcome(url, role="broker_url"):
    try:
        return parse_url(url, SENTINEL_OPTIONS, role=role)
    except ConfigError as error:
        return error


def shown(error):
    """All that a log could show of an error, without the source lines of a traceback."""
    summary = traceback.TracebackException.from_exception(error, lookup_lines=False)
    own = [str(error), repr(error), repr(error.args), *summary.format_exception_only()]
    chained = [each for each in (error.__cause__, error.__context__) if each is not None]
    return "\n".join(own + [shown(each) for each in chained])


# What is read


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", tcp()),
        ("redis:///", tcp()),
        ("redis://localhost", tcp()),
        ("redis://localhost:6379/0", tcp()),
        ("REDIS://Redis.Example:6380/7", tcp(host="redis.example", port=6380, db=7)),
        ("redis://h:/1", tcp(host="h", db=1)),
        ("redis://my_redis-1.", tcp(host="my_redis-1.")),
        ("redis://:1234", tcp(port=1234)),
        ("redis:///5", tcp(db=5)),
        ("redis://h/%33", tcp(host="h", db=3)),
        ("redis://r%65dis", tcp(host="redis")),
        ("redis://b%C3%BCcher.example", tcp(host="bücher.example")),
        ("redis://user@h", tcp(host="h", username="user")),
        ("redis://user:@h", tcp(host="h", username="user")),
        ("redis://@h", tcp(host="h")),
        ("redis://:@h", tcp(host="h")),
        ("redis://:pw@h:1/2", tcp(host="h", port=1, db=2, password="pw")),
        ("redis://:p%40ss@h", tcp(host="h", password="p@ss")),
        ("redis://us%2Fer:p%3Aw@h", tcp(host="h", username="us/er", password="p:w")),
        ("redis://u:p:w@h", tcp(host="h", username="u", password="p:w")),
        ("redis://u:100%25%zz+x@h", tcp(host="h", username="u", password="100%%zz+x")),
        ("redis://u:pw@", tcp(username="u", password="pw")),
        ("redis://[::1]", tcp(host="::1")),
        ("redis://u:p@[2001:DB8::1]:1/2", tcp(host="2001:db8::1", port=1, db=2, username="u", password="p")),
        ("redis://[fe80::1%25Eth0]:1", tcp(host="fe80::1%Eth0", port=1)),
        ("redis://h?db=3", tcp(host="h", db=3)),
        ("redis://h/?db=3", tcp(host="h", db=3)),
        ("redis://h/3?db=3", tcp(host="h", db=3)),
        ("redis://h/3?", tcp(host="h", db=3)),
        ("redis://h/3?&db=3&", tcp(host="h", db=3)),
        ("redis://h//3", tcp(host="h", db=3)),
        ("redis://h//", tcp(host="h")),
        ("redis://h/3/", tcp(host="h", db=3)),
        ("redis://h/3;", tcp(host="h", db=3)),
        ("rediss://u:p@h:1/2", tcp(host="h", port=1, db=2, username="u", password="p", ssl=TLSOptions())),
        ("redis+socket:///run/redis.sock", unix()),
        ("redis+socket:///run/redis.sock?virtual_host=3", unix(db=3)),
        ("redis+socket:///run/redis.sock?virtual_host=/3", unix(db=3)),
        ("redis+socket://u:p%40@/run/redis.sock", unix(username="u", password="p@")),
        ("redis+socket:///run/a%20b%40c.sock", unix(path="/run/a b@c.sock")),
    ],
)
def test_a_url_is_read_as_celery_spells_it(url, address, role):
    assert parse_url(url, OPTIONS, role=role) == address


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("sentinel://a:1", sentinel(("a", 1))),
        ("sentinel://a:1/2", sentinel(("a", 1), db=2)),
        ("sentinel://:1/2", sentinel(("localhost", 1), db=2)),
        ("sentinel://a:1/3;sentinel://b:2/3", sentinel(("a", 1), ("b", 2), db=3)),
        ("sentinel://a:1/3;sentinel://b:2/3;", sentinel(("a", 1), ("b", 2), db=3)),
        ("sentinel://a:1;;b:2", sentinel(("a", 1), ("b", 2))),
        ("sentinel://a:1;b:2;c:3/3", sentinel(("a", 1), ("b", 2), ("c", 3))),
        ("sentinel://a:1/1;b:2/2", sentinel(("a", 1), ("b", 2), db=1)),
        ("sentinel://a:1;b:2?db=2", sentinel(("a", 1), ("b", 2))),
        ("sentinel://a:1//2;SENTINEL://[::1]:2", sentinel(("a", 1), ("::1", 2), db=2)),
        ("sentinel://u:p%3B@a:1;b:2", sentinel(("a", 1), ("b", 2), username="u", password="p;")),
        ("sentinel://u:p@a:1;sentinel://v:q@b:2", sentinel(("a", 1), ("b", 2), username="u", password="p")),
        ("sentinel://a:1;sentinel://:p@b:2", sentinel(("a", 1), ("b", 2))),
        ("sentinel://u@a:1;sentinel://:p@b:2", sentinel(("a", 1), ("b", 2), username="u")),
    ],
)
def test_sentinels_are_read_with_the_database_and_the_credentials_of_the_first(url, address, role):
    assert parse_url(url, SENTINEL_OPTIONS, role=role) == address


@pytest.mark.parametrize(("role", "port"), [("broker_url", 26379), ("result_backend", 6379)])
def test_a_sentinel_without_a_port_has_the_one_that_celery_takes_in_that_place(role, port):
    read = parse_url("sentinel://a/1;sentinel://b:1/1", SENTINEL_OPTIONS, role=role)
    assert read == sentinel(("a", port), ("b", 1), db=1)


def test_a_result_backend_on_a_socket_takes_db_as_celery_does():
    assert read("redis+socket:///run/redis.sock?db=3", role="result_backend") == unix(db=3)


def test_a_broker_on_a_socket_refuses_db_because_celery_ignores_it():
    error = refusal("redis+socket:///run/redis.sock?db=3")
    assert "virtual_host" in str(error)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "sentinel", "redis+socket"])
@pytest.mark.parametrize(
    "option",
    ["max_connections=5", "health_check_interval=7", "retry_on_timeout=1", "decode_responses=1", "lib_name=", "insist"],
)
def test_how_celery_manages_its_own_connections_is_passed_over(option, scheme, role):
    address = parse_url(f"{scheme}:///3?{option}", SENTINEL_OPTIONS, role=role)
    assert address == parse_url(f"{scheme}:///3", SENTINEL_OPTIONS, role=role)


@pytest.mark.parametrize("option", ["socket_timeout", "socket_connect_timeout", "timeout"])
def test_a_result_backend_may_have_celerys_time_limits_and_a_broker_hears_of_io_timeout(option):
    assert read(f"redis://h/3?{option}=5", role="result_backend") == tcp(host="h", db=3)
    assert f"the option {option} is not an option of the URL: the setting io_timeout" in str(
        refusal(f"redis://h/3?{option}=5")
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("client_name=web-1", {"client_name": "web-1"}),
        ("client_name=a%2Bb", {"client_name": "a+b"}),
        ("protocol=2", {"protocol": 2}),
        ("protocol=3", {"protocol": 3}),
        ("socket_keepalive=true", {}),
        ("socket_keepalive=f", {"keepalive": False}),
        ("client_name=x&protocol=2&socket_keepalive=0", {"client_name": "x", "protocol": 2, "keepalive": False}),
    ],
)
def test_a_url_may_say_what_a_connection_is_like(option, fields, role):
    assert parse_url(f"redis://h?{option}", OPTIONS, role=role) == tcp(host="h", **fields)
    assert parse_url(f"rediss://h?{option}", OPTIONS, role=role) == tcp(host="h", ssl=TLSOptions(), **fields)
    sentinels = sentinel(("g", 1), ("h", 2), **fields)
    for url in (f"sentinel://g:1;h:2?{option}", f"sentinel://g:1?{option};h:2?{option}"):
        assert parse_url(url, SENTINEL_OPTIONS, role=role) == sentinels
    on_a_socket = unix(**{**fields, "keepalive": True})
    assert parse_url(f"redis+socket:///run/redis.sock?{option}", OPTIONS, role=role) == on_a_socket


def test_the_name_of_the_connections_may_stand_in_the_settings():
    assert read("redis://h", client_name="web") == tcp(host="h", client_name="web")
    assert read("redis://h?client_name=web", client_name="web").client_name == "web"
    assert "client_name in the URL is not what RedisOptions say; say it once" in str(
        refusal("redis://h?client_name=web", RedisOptions(client_name="other"))
    )


@pytest.mark.parametrize("start", ["redis://{}h", "redis+socket://{}/run/redis.sock", "sentinel://{}h"])
def test_a_result_backend_takes_user_and_password_behind_the_question_mark_as_celery_does(start):
    def found(who, query):
        address = parse_url(start.format(who) + query, SENTINEL_OPTIONS, role="result_backend")
        return address.username, address.password

    assert found("", "?username=u&password=p%2Bw") == ("u", "p+w")
    assert found("u@", "?password=p") == ("u", "p")
    assert found("u:p@", "?password=p") == ("u", "p")
    different = refusal(start.format("u:p@") + f"?password={SECRET}", role="result_backend")
    assert "password behind the '?' is not what stands before the host; say it once" in str(different)
    assert SECRET not in shown(different)
    assert "before the host" in str(refusal(start.format("") + "?password=pw"))


def test_of_sentinels_the_first_says_who_connects_behind_the_question_mark_too():
    url = "sentinel://a:1?password=p;sentinel://b:2?password=q&username=u"
    expected = sentinel(("a", 1), ("b", 2), password="p")
    assert parse_url(url, SENTINEL_OPTIONS, role="result_backend") == expected


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("url", "alias"),
    [
        ("redis://u:p@h:1/2?protocol=2", "valkey://u:p@h:1/2?protocol=2"),
        ("rediss://h?ssl_cert_reqs=none", "VALKEYS://h?ssl_cert_reqs=none"),
    ],
)
def test_valkey_is_redis_by_another_name(url, alias, role):
    assert parse_url(alias, OPTIONS, role=role) == parse_url(url, OPTIONS, role=role)


class Provider:
    """Equal to all others of its kind, but not the same."""

    def get_credentials(self):
        return SECRET, SECRET

    def __eq__(self, other):
        return isinstance(other, Provider)

    __hash__ = None


@pytest.mark.parametrize("url", ["redis://h", "rediss://@h", "redis+socket:///run/redis.sock", "sentinel://h"])
def test_a_provider_gives_the_credentials_in_place_of_the_url(url):
    one, other = Provider(), Provider()
    options = RedisOptions(master_name="m", credential_provider=one)
    address = parse_url(url, options, role="broker_url")
    assert address.credential_provider is one
    assert "Provider" not in repr(options) + repr(address) + str(address)
    others = dataclasses.replace(address, credential_provider=other)
    assert others.credential_provider is other
    assert others != address != dataclasses.replace(address, credential_provider=None)
    assert len({address, others, dataclasses.replace(others, credential_provider=one)}) == 2


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "url", ["redis://u@h", "redis://:Xyzzy@h", "redis+socket://:Xyzzy@/s", "sentinel://u:Xyzzy@a;b"]
)
def test_user_and_password_are_said_once(url, role):
    options = RedisOptions(master_name="m", credential_provider=Provider())
    error = refusal(url, options, role)
    assert "credential_provider in RedisOptions gives them too; say them once" in str(error)
    assert SECRET not in shown(error)


@pytest.mark.parametrize(
    ("query", "settings", "options"),
    [
        ("", {}, TLSOptions()),
        ("ssl_cert_reqs=CERT_REQUIRED", {}, TLSOptions(cert_reqs="required")),
        ("ssl_cert_reqs=required", {"ssl_cert_reqs": ssl.CERT_REQUIRED}, TLSOptions(cert_reqs="required")),
        ("ssl_cert_reqs=CERT_OPTIONAL", {}, TLSOptions(cert_reqs="optional")),
        ("ssl_cert_reqs=optional", {}, TLSOptions(cert_reqs="optional")),
        ("ssl_cert_reqs=CERT_NONE", {}, TLSOptions(cert_reqs="none", check_hostname=False)),
        ("ssl_cert_reqs=none", {}, TLSOptions(cert_reqs="none", check_hostname=False)),
        ("ssl_cert_reqs=none&ssl_check_hostname=no", {}, TLSOptions(cert_reqs="none", check_hostname=False)),
        ("", {"ssl_cert_reqs": "CERT_NONE"}, TLSOptions(cert_reqs="none", check_hostname=False)),
        ("", {"ssl_cert_reqs": ssl.CERT_NONE}, TLSOptions(cert_reqs="none", check_hostname=False)),
        ("", {"ssl_cert_reqs": 2}, TLSOptions(cert_reqs="required")),
        ("", {"ssl_check_hostname": False}, TLSOptions(check_hostname=False)),
        ("ssl_check_hostname=yes", {"ssl_check_hostname": True}, TLSOptions(check_hostname=True)),
        ("ssl_check_hostname=TRUE", {}, TLSOptions(check_hostname=True)),
        ("ssl_check_hostname=1", {}, TLSOptions(check_hostname=True)),
        ("ssl_check_hostname=on", {}, TLSOptions(check_hostname=True)),
        ("ssl_check_hostname=0", {}, TLSOptions(check_hostname=False)),
        ("ssl_check_hostname=False", {}, TLSOptions(check_hostname=False)),
        (
            "ssl_ca_certs=%2Fetc%2Fca%20s.pem&ssl_certfile=/c%40.pem&ssl_keyfile=/k%2B.pem",
            {},
            TLSOptions(ca_certs="/etc/ca s.pem", certfile="/c@.pem", keyfile="/k+.pem"),
        ),
        (
            "ssl_ca_certs=/url.pem",
            {"ssl_certfile": "/c.pem", "ssl_keyfile": "/k.pem"},
            TLSOptions(ca_certs="/url.pem", certfile="/c.pem", keyfile="/k.pem"),
        ),
        (
            "ssl_ca_path=/certs&ssl_ca_data=a%2Bb%0Ac&ssl_password=p%26q&ssl_min_version=772&ssl_ciphers=A:B",
            {},
            TLSOptions(
                ca_path="/certs", ca_data="a+b\nc", password="p&q", min_version=ssl.TLSVersion.TLSv1_3, ciphers="A:B"
            ),
        ),
        (
            "",
            {
                "ssl_ca_path": "/certs",
                "ssl_ca_data": "a+b",
                "ssl_password": "p",
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
                "ssl_ciphers": "A:B",
            },
            TLSOptions(
                ca_path="/certs", ca_data="a+b", password="p", min_version=ssl.TLSVersion.TLSv1_2, ciphers="A:B"
            ),
        ),
        (
            "ssl_include_verify_flags=%5BVERIFY_X509_STRICT%2C+VERIFY_CRL_CHECK_LEAF%5D",
            {"ssl_exclude_verify_flags": [ssl.VERIFY_X509_TRUSTED_FIRST]},
            TLSOptions(
                include_verify_flags=ssl.VERIFY_X509_STRICT | ssl.VERIFY_CRL_CHECK_LEAF,
                exclude_verify_flags=ssl.VERIFY_X509_TRUSTED_FIRST,
            ),
        ),
        (
            "ssl_exclude_verify_flags=VERIFY_X509_STRICT",
            {"ssl_exclude_verify_flags": "VERIFY_X509_STRICT", "ssl_min_version": 771},
            TLSOptions(exclude_verify_flags=ssl.VERIFY_X509_STRICT, min_version=ssl.TLSVersion.TLSv1_2),
        ),
    ],
)
def test_tls_is_checked_unless_the_url_or_else_the_settings_say_otherwise(query, settings, options):
    assert read(f"rediss://h/0?{query}", **settings) == tcp(host="h", ssl=options)


@pytest.mark.parametrize(
    ("url", "settings", "options"),
    [
        ("sentinel://h", {}, None),
        ("sentinel://h?ssl_cert_reqs=required", {}, TLSOptions()),
        ("sentinel://h", {"ssl_cert_reqs": "required"}, TLSOptions()),
        ("sentinel://h", {"ssl_check_hostname": False}, TLSOptions(check_hostname=False)),
        ("sentinel://g;h?ssl_ca_certs=/ca.pem", {"ssl_ca_certs": "/ca.pem"}, TLSOptions(ca_certs="/ca.pem")),
        ("sentinel://h", {"ssl_ca_data": "x"}, TLSOptions(ca_data="x")),
        (
            "sentinel://g?ssl_cert_reqs=none;h?ssl_cert_reqs=none",
            {},
            TLSOptions(cert_reqs="none", check_hostname=False),
        ),
    ],
)
def test_what_is_said_of_certificates_gives_sentinel_tls(url, settings, options):
    address = read(url, master_name="m", **settings)
    assert address.ssl == options
    assert ("TLS" in str(address)) is (options is not None)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("url", "word"), [("redis://h", "rediss://"), ("redis+socket:///s", "a Unix socket does not")])
@pytest.mark.parametrize(
    "setting",
    [
        {"ssl_cert_reqs": "required"},
        {"ssl_cert_reqs": "none"},
        {"ssl_ca_certs": "/ca.pem"},
        {"ssl_certfile": "/c.pem"},
        {"ssl_keyfile": "/k.pem"},
        {"ssl_check_hostname": False},
        {"ssl_ca_data": "x"},
        {"ssl_min_version": 772},
    ],
    ids=lambda setting: "".join(map(str, *setting.items())),
)
def test_settings_about_tls_with_a_url_that_has_none_are_refused_and_not_dropped(setting, url, word, role):
    (name,) = setting
    message = str(refusal(url, RedisOptions(**setting), role))
    assert message.startswith(f"{role} (or CELERY_{role.upper()}): {name} in RedisOptions is about TLS")
    assert word in message


# What an address shows


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://u:Xyzzy@h", "redis://h:6379/0"),
        ("redis://u:Xyzzy@[::1]:1/2", "redis://[::1]:1/2"),
        ("rediss://:Xyzzy@h/3", "rediss://h:6379/3"),
        ("redis+socket://u:Xyzzy@/run/redis.sock?virtual_host=3", "redis+socket:///run/redis.sock (db 3)"),
        ("sentinel://u:Xyzzy@a;[::1]:1", "sentinel://a:26379/0;sentinel://[::1]:1/0 (master mymaster)"),
    ],
)
def test_an_address_is_readable_and_hides_the_password(url, text):
    address = parse_url(url, SENTINEL_OPTIONS, role="broker_url")
    assert str(address) == text
    assert address.password == SECRET
    assert SECRET not in repr(address)


def test_the_text_of_an_address_hides_the_user_name():
    assert SECRET not in str(read(f"redis://{SECRET}:pw@h"))


def test_equal_addresses_are_equal_keys():
    broker = read("redis://u:p@Example:6379/0")
    results = read("redis://u:p@example/", role="result_backend")
    assert broker == results
    assert len({broker, results}) == 1


@pytest.mark.parametrize(
    "other",
    [
        "redis://u:q@h", "redis://v:p@h", "redis://u:p@h/1", "rediss://u:p@h", "redis://u:p@h?client_name=x",
        "redis://u:p@h?protocol=2", "redis://u:p@h?socket_keepalive=no",
    ],
)  # fmt: skip
def test_addresses_differ_by_all_that_changes_a_connection(other):
    assert read("redis://u:p@h") != read(other)


def test_an_address_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read("redis://h").host = "other"


# What is refused


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("url", "word"),
    [
        (None, "must be text"),
        (b"redis://h", "must be text"),
        (6379, "must be text"),
        ("", "empty"),
        ("redis", "no '://'"),
        ("redis:/h", "no '://'"),
        ("localhost:6379", "no '://'"),
        ("://h", "must begin with redis://"),
        ("a\u0301b://h", "must begin with redis://"),
        ("rediss+sentinel://h", "rediss+sentinel:// is not known"),
        ("reids://h", "reids:// is not known"),
        ("rediscluster://h", "Redis Cluster is not supported"),
        ("redis+cluster://h", "Redis Cluster is not supported"),
        ("unix:///run/redis.sock", "redis+socket://"),
        ("socket:///run/redis.sock", "redis+socket://"),
        ("rediss+socket:///run/redis.sock", "no TLS"),
        ("amqp://h", "only Redis is supported"),
        ("pyamqp://h", "only Redis is supported"),
        ("sqs://h", "only Redis is supported"),
        ("memory://", "only Redis is supported"),
        ("rpc://", "only Redis is supported"),
        ("db+sqlite:///results.db", "only Redis is supported"),
        ("cache+memcached://h", "only Redis is supported"),
        ("redis://a;redis://b", "use Redis Sentinel"),
        ("redis://a;b", "use Redis Sentinel"),
        (" redis://h", "space"),
        ("redis://h/0\n", "line break"),
        ("redis://h\x00", "invisible"),
        ("redis://h\u200b", "invisible"),
        ("redis://\ud800", "invisible"),
        ("redis://h/0#1", "'#'"),
        ("redis://h:abc", "port"),
        ("redis://h:-1", "port"),
        ("redis://h:0", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:6_3", "port"),
        ("redis://h:٣", "port"),
        ("redis://h:" + "9" * 5000, "port"),
        ("redis://::1:6379", "brackets"),
        ("redis://[::1", "IPv6"),
        ("redis://[::1]6379", "IPv6"),
        ("redis://[]", "IPv6"),
        ("redis://[h]", "IPv6"),
        ("redis://[::1%25e%20th]", "IPv6"),
        ("redis://a%20b", "host"),
        ("redis://a%2Fb", "host"),
        ("redis://a%00b", "host"),
        ("redis://a%b", "host"),
        ("redis://a..b", "host"),
        ("redis://" + "a" * 64, "host"),
        ("redis://" + "a." * 200, "host"),
        ("redis://\u2100", "host"),
        ("redis://h%ff", "not UTF-8"),
        ("redis://:%ff@h", "not UTF-8"),
        ("redis://h/%ff", "not UTF-8"),
        ("redis://h?%ff=1", "not UTF-8"),
        ("redis://h/abc", "number of a database"),
        ("redis://h/5/6", "number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h/1_0", "number of a database"),
        ("redis://h/2147483648", "number of a database"),
        ("redis://h/" + "9" * 5000, "number of a database"),
        ("redis://h?db=x", "number of a database"),
        ("redis+socket:///s?virtual_host=-1", "number of a database"),
        ("redis://h/0?db=3", "different databases"),
        ("redis://h?db=3&db=3", "db is given twice"),
        ("redis://h?db=3&d%62=4", "db is given twice"),
        ("redis://h?db", "db has no value"),
        ("redis://h?db=", "db has no value"),
        ("redis://h?virtual_host=3", "redis+socket://"),
        ("redis://h?host=g", "the option host is not an option of the URL, in which it has a place of its own"),
        ("redis+socket:///s?path=/t", "a place of its own"),
        ("redis://h?client_name=a%20b", "client_name must be ASCII text without spaces"),
        ("redis://h?client_name=%C3%A9", "client_name must be"),
        ("redis://h?client_name=", "client_name has no value"),
        ("redis://h?protocol=4", "protocol must be 2 or 3"),
        ("redis://h?protocol=two", "protocol must be 2 or 3"),
        ("redis://h?socket_keepalive=maybe", "socket_keepalive must be true or false"),
        ("sentinel://a?client_name=x;b?client_name=y", "different client_name or protocol or socket_keepalive"),
        ("valkey://h?ssl_cert_reqs=none", "rediss://"),
        ("valkey+socket:///run/redis.sock", "redis+socket://"),
        ("rediss://h?ssl_validate_ocsp=1", "by OCSP"),
        ("rediss://h?ssl_min_version=2", "771 is TLS 1.2"),
        ("rediss://h?ssl_min_version=TLSv1.2", "771 is TLS 1.2"),
        ("rediss://h?ssl_ca_data=%C3%A9", "ssl_ca_data, in the URL or in RedisOptions, must be ASCII text"),
        ("rediss://h?ssl_ca_path=a%00", "path of a directory"),
        ("rediss://h?ssl_exclude_verify_flags=STRICT", "ssl.VerifyFlags"),
        ("redis://h?credential_provider=os.Thing", "nothing is imported"),
        ("rediss://h?global_keyprefix=x", "broker_prefix"),
        ("redis://h?visibility_timeout=7", "visibility_timeout is not known"),
        ("redis://h?a-b=7", "an option in it is not known"),
        ("redis://h?=7", "an option in it is not known"),
        ("redis://h?ssl_cert_reqs=none", "rediss://"),
        ("redis://h?ssl_whatever=none", "rediss://"),
        ("redis+socket:///s?ssl_cert_reqs=none", "Unix socket"),
        ("rediss://h?ssl_whatever=none", "ssl_whatever is not known"),
        ("rediss://h?ssl_cert_reqs=never", "required, optional or none"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_cert_reqs is none"),
        ("rediss://h?ssl_check_hostname=maybe", "true or false"),
        ("rediss://h?ssl_keyfile=/k.pem", "ssl_certfile"),
        ("rediss://h?ssl_ca_certs=a%00", "path of a file"),
        ("redis+socket://", "three slashes"),
        ("redis+socket:///", "three slashes"),
        ("redis+socket://run/redis.sock", "three slashes"),
        ("redis+socket:///a%00b", "three slashes"),
        ("redis+socket:///a;b", "';'"),
        ("sentinel://a;:26379", "has no host"),
        ("sentinel://:26379;b", "has no host; write sentinel://host:26379/0;sentinel://host:26379/0"),
        ("sentinel://a;redis://b", "must begin with sentinel://"),
        ("sentinel://sentinel://a", "must begin with sentinel://"),
        ("sentinel://a;b:x", "port"),
        ("sentinel://a;b/x", "number of a database"),
        ("sentinel://a/0?db=1", "different databases"),
        ("sentinel://a?master_name=m", "RedisOptions"),
        ("sentinel://a?ssl_cert_reqs=never", "required, optional or none"),
        ("sentinel://a?ssl_ca_certs=/a.pem;b?ssl_ca_certs=/b.pem", "different ssl_* options"),
        ("sentinel://a;:pw@b", "must begin with sentinel://"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_settings_name_and_a_reason(url, word, role):
    message = str(refusal(url, role=role))
    assert message.startswith(role)
    assert word in message
    assert len(message) < 450


@pytest.mark.parametrize("name", [None, "", 5])
def test_sentinel_needs_the_name_of_the_master(name):
    assert "master_name" in str(refusal("sentinel://a", RedisOptions(master_name=name)))


@pytest.mark.parametrize(
    "settings",
    [
        {"ssl_cert_reqs": "never"},
        {"ssl_cert_reqs": 3},
        {"ssl_cert_reqs": True},
        {"ssl_cert_reqs": ["none"]},
        {"ssl_check_hostname": 1},
        {"ssl_check_hostname": "maybe"},
        {"ssl_ca_certs": ""},
        {"ssl_certfile": 3},
        {"ssl_keyfile": "/k.pem"},
        {"ssl_cert_reqs": "none", "ssl_check_hostname": True},
        {"ssl_ca_path": 3},
        {"ssl_ca_data": b"x"},
        {"ssl_password": ""},
        {"ssl_min_version": 3},
        {"ssl_min_version": True},
        {"ssl_min_version": 771.0},
        {"ssl_ciphers": 3},
        {"ssl_include_verify_flags": 32},
        {"ssl_include_verify_flags": []},
        {"ssl_exclude_verify_flags": [32]},
    ],
)
def test_wrong_settings_about_tls_are_refused_by_name(settings):
    assert next(iter(settings)) in str(refusal("rediss://h", RedisOptions(**settings)))


def test_a_contradiction_between_url_and_settings_is_refused():
    error = refusal("rediss://h?ssl_cert_reqs=none", RedisOptions(ssl_check_hostname=True))
    assert "ssl_check_hostname" in str(error)


@pytest.mark.parametrize("scheme", ["rediss", "sentinel"])
@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("ssl_cert_reqs=required", {"ssl_cert_reqs": "none"}),
        ("ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("ssl_check_hostname=yes", {"ssl_check_hostname": False}),
        ("ssl_ca_certs=/url.pem", {"ssl_ca_certs": "/setting.pem"}),
        ("ssl_password=Xyzzy", {"ssl_password": f"{SECRET}2"}),
        ("ssl_min_version=771", {"ssl_min_version": 772}),
    ],
)
def test_what_is_said_of_tls_is_said_once(option, setting, scheme):
    (name,) = setting
    error = refusal(f"{scheme}://h?{option}", RedisOptions(master_name="m", **setting))
    assert f"{name} in the URL is not what RedisOptions say; say it once" in str(error)
    assert SECRET not in shown(error)


def test_the_scheme_of_a_url_is_shown_only_where_it_looks_like_one():
    assert "reids" in str(refusal("reids://h"))
    assert "x" * 21 not in str(refusal("x" * 21 + "://h"))
    assert SECRET.lower() not in str(refusal(f"user:{SECRET}://@h")).lower()


# What an error never shows


@pytest.mark.parametrize(
    "url",
    [
        "redis://:Xyzzy/Xyzzy@host:6379/0",
        "redis://:12/Xyzzy@host:6379/0",
        "redis://:Xyzzy#Xyzzy@host:6379/0",
        "redis://:Xyzzy?Xyzzy@host:6379/0",
        "redis://:12?Xyzzy=1@host:6379/0",
        "redis://:Xyzzy@Xyzzy@host:6379/0",
        "redis://:Xyzzy;Xyzzy@host:6379/0",
        "redis://:Xyzzy Xyzzy@host:6379/0",
        "redis://u:Xyzzy@[Xyzzy@host:6379/0",
        "redis://u:p@a?Xyzzy=1@host",
        "redis+socket://:Xyzzy/Xyzzy@/run/redis.sock",
        "redis+socket://:p@/Xyzzy@/run/redis.sock",
        "redis+socket://:p@?Xyzzy=1@/run/redis.sock",
        "sentinel://:Xyzzy;Xyzzy@host/0",
        "sentinel://u:12;Xyzzy@host/0",
        "sentinel://:12;Xyzzy@host/0",
        "sentinel://u:Xyzzy://Xyzzy@host/0",
        "sentinel://u:p;Xyzzy://Xyzzy@host/0",
        "user:Xyzzy@host:6379",
        "redis:user:Xyzzy@host:6379",
    ],
)
def test_a_raw_character_in_a_password_is_explained_without_showing_the_password(url):
    error = refusal(url)
    assert "percent-encoded" in str(error)
    assert SECRET not in shown(error)
    assert "host:6379" not in shown(error).replace("redis://localhost:6379/0", "")  # the example


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:Xyzzy@h:port",
        "redis://u:Xyzzy@h/abc",
        "redis://u:Xyzzy@h/0?db=1",
        "redis://u:Xyzzy@h/0?nonsense=1",
        "redis://u:Xyzzy%ff@h/0",
        "redis://u:Xyzzy@[h]",
        "redis://u:Xyzzy@\u2100",
        "amqp://u:Xyzzy@h//",
        "redis+socket://u:Xyzzy@h/s",
        "redis://h:Xyzzy",
        "redis://Xyzzy%20",
        "redis://h/Xyzzy",
        "redis://h?db=Xyzzy",
        "redis://h?socket_timeout=Xyzzy",
        "rediss://h?ssl_cert_reqs=Xyzzy",
        "rediss://h?ssl_check_hostname=Xyzzy",
        "sentinel://a?master_name=Xyzzy",
        "redis://h?Xy-zzy=Xyzzy",
        "redis://h?client_name=Xyzzy%20",
        "redis://h?protocol=Xyzzy",
        "redis://h?socket_keepalive=Xyzzy",
        "redis://h?password=Xyzzy",
        "rediss://h?ssl_min_version=Xyzzy",
        "rediss://h?ssl_ca_data=Xyzzy%ff",
        "rediss://h?ssl_exclude_verify_flags=Xyzzy",
        "rediss://h?ssl_password=12&Xyzzy",
        "sentinel://h?ssl_password=12;Xyzzy:Xyzzy",
    ],
)
def test_an_error_shows_no_value_of_the_url(url):
    error = refusal(url)
    assert SECRET not in shown(error)
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?password=12&Xyzzy",
        "redis://h?password=12&Xyzzy=1",
        "redis://h?p%61ssword=12&Xyzzy=1",
        "redis://h?password=12;Xyzzy",
        "redis://h?password=12;",
        "redis://h?password=12@Xyzzy",
        "redis://h?password=12#Xyzzy",
        "redis://h?password=Xyzzy%ff",
        "sentinel://h?password=12;Xyzzy",
        "sentinel://h?p%61ssword=12;Xyzzy",
        "sentinel://h?password=12;Xyzzy:port",
        "rediss://h?ssl_password=12;Xyzzy",
    ],
)
def test_a_raw_character_in_a_password_behind_the_question_mark_shows_nothing_of_it(url):
    error = refusal(url, role="result_backend")
    assert SECRET not in shown(error)
    assert error.__context__ is None


def test_what_an_address_shows_of_tls_is_no_secret():
    address = read("rediss://h?ssl_password=Xyzzy&ssl_ca_data=Xyzzy&ssl_min_version=772")
    assert SECRET not in repr(address) + str(address) + repr(RedisOptions(ssl_password=SECRET, ssl_ca_data=SECRET))


# Properties

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SPECIAL = "/?#@;:%&=+[] \n."
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?(\.[a-z]{1,10}){0,3}", fullmatch=True)
HOSTS = NAMES | st.ip_addresses().map(str)
SHREDDED = st.lists(
    st.sampled_from([SECRET, *SPECIAL, "12", "://", "sentinel://", "db=", "%40", "%ff"]),
    min_size=1,
    max_size=8,
).map("".join)
PIECES = [
    "redis",
    "rediss",
    "redis+socket",
    "sentinel",
    "://",
    "h",
    "[::1]",
    "a%20",
    "ssl_cert_reqs=",
    "db=",
    "%ff",
]
URL_LIKE = st.lists(st.sampled_from([*PIECES, *SPECIAL, "1", "é"]), max_size=15).map("".join)
SCHEMES = st.sampled_from(["redis://", "rediss://", "redis+socket://", "sentinel://", "amqp://"])


@given(TEXT, TEXT, HOSTS, st.integers(1, 65535), st.integers(0, 2**31 - 1), st.sampled_from(["redis", "rediss"]))
@example("", "", "h", 1, 0, "redis")
def test_whatever_is_encoded_is_read_back(username, password, host, port, db, scheme):
    server = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{server}:{port}/{db}"
    assert parse_url(url, OPTIONS, role="broker_url") == tcp(
        host=host,
        port=port,
        db=db,
        username=username or None,
        password=password or None,
        ssl=TLSOptions() if scheme == "rediss" else None,
    )


@given(TEXT.filter(lambda text: text and "\0" not in text), TEXT, st.integers(0, 99))
def test_whatever_path_is_encoded_is_read_back(path, password, db):
    url = f"redis+socket://:{quote(password, safe='')}@/{quote(path, safe='')}?virtual_host={db}"
    assert read(url) == unix(path=f"/{path}", password=password or None, db=db)


@given(st.lists(st.tuples(HOSTS, st.integers(1, 65535)), min_size=1, max_size=4), TEXT, st.integers(0, 99))
def test_the_text_of_an_address_without_its_note_is_a_url_of_it(hosts, password, db):
    address = sentinel(*hosts, db=db, password=password or None)
    text = str(address).removesuffix(" (master mymaster)")
    assert parse_url(text, SENTINEL_OPTIONS, role="broker_url") == dataclasses.replace(address, password=None)


@given(st.text() | URL_LIKE | st.builds("{}{}".format, SCHEMES, st.text() | URL_LIKE), st.sampled_from(ROLES))
def test_any_text_is_an_address_or_a_config_error(text, role):
    answer = outcome(text, role)
    if isinstance(answer, ConfigError):
        assert str(answer).startswith(role)
        assert answer.__cause__ is None
        assert answer.__context__ is None
    else:
        assert answer.kind in ("tcp", "unix", "sentinel")
        assert 0 <= answer.db < 2**31


@given(SCHEMES, SHREDDED, SHREDDED, st.sampled_from(["h", "h:1/2", "[::1]", "/run/s", "a;b", "h/x", "h?db=1"]))
def test_no_error_shows_a_piece_of_a_raw_user_name_or_password(scheme, username, password, server):
    answer = outcome(f"{scheme}{username}:{password}@{server}")
    assert isinstance(answer, RedisAddress) or SECRET not in shown(answer)


@given(st.text(string.printable), st.text(string.printable))
def test_no_error_shows_a_host_a_path_or_the_value_of_an_option(before, behind):
    answer = outcome(f"redis://{before}{SECRET}-{behind}")
    assert isinstance(answer, RedisAddress) or SECRET not in shown(answer)
