"""Where a Redis is, and how to connect to it: what a URL says, as a value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from fibo_client.telemetry.tracer import Server

if TYPE_CHECKING:
    import ssl

CertReqs = Literal["required", "optional", "none"]
Protocol = Literal[2, 3]
Role = Literal["broker_url", "result_backend"]

CLIENT_NAME: Final = re.compile(r"[!-~]+")
"""What Redis takes as the name of a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """How a TLS connection checks the server and shows itself.

    Attributes:
        cert_reqs: Whether the server's certificate is checked.
        ca_certs: A file of certificate authorities. Without this and the next two, they are the system's.
        ca_path: A directory of certificate authorities, as OpenSSL wants it.
        ca_data: Certificate authorities as text, in PEM.
        certfile: The client's certificate.
        keyfile: The key of the client's certificate.
        password: What the key is encrypted with.
        check_hostname: Whether the certificate must be for the server's host name.
        min_version: The oldest TLS that is spoken. None is Python's.
        ciphers: The ciphers up to TLS 1.2, as OpenSSL spells them. None is Python's.
        include_verify_flags: What is checked of certificates besides what Python checks.
        exclude_verify_flags: What is not checked of that.
    """

    cert_reqs: CertReqs = "required"
    ca_certs: str | None = None
    ca_path: str | None = None
    ca_data: str | None = field(default=None, repr=False)
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = field(default=None, repr=False)
    check_hostname: bool = True
    min_version: ssl.TLSVersion | None = None
    ciphers: str | None = None
    include_verify_flags: ssl.VerifyFlags | None = None
    exclude_verify_flags: ssl.VerifyFlags | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A database on a Redis server, and the user who connects to it. Equal addresses can share connections.

    Its repr does not show the password, its text neither the password nor the user name.

    Attributes:
        kind: ``tcp``, ``unix`` or ``sentinel``; says which of the next four are filled.
        host: The host (tcp), in lower case; an IPv6 address without brackets.
        port: The port (tcp).
        path: The socket's path (unix).
        hosts: The hosts and ports of the Sentinels (sentinel).
        db: The number of the database.
        username: The user name for Redis itself, not for the Sentinels.
        password: The password for Redis itself, not for the Sentinels.
        credential_provider: What gives user name and password for Redis itself, in their place. See `RedisOptions`.
        ssl: How to speak TLS (tcp, sentinel: with Redis and the Sentinels alike). None is no TLS.
        master_name: The name of the master that the Sentinels watch (sentinel).
        client_name: The name of each connection, for ``CLIENT LIST``. None is none.
        protocol: The version of Redis' protocol. None is 3 where the server knows it, and else 2.
        keepalive: Whether the system probes a silent connection (tcp, sentinel).
    """

    kind: Literal["tcp", "unix", "sentinel"]
    host: str = ""
    port: int = 0
    path: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: Any | None = field(default=None, repr=False, compare=False)
    _provider_id: int = field(init=False, repr=False)  # Providers are compared by identity.
    ssl: TLSOptions | None = None
    master_name: str | None = None
    client_name: str | None = None
    protocol: Protocol | None = None
    keepalive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "_provider_id", id(self.credential_provider))

    @property
    def server(self) -> Server:
        """The server, for telemetry. The address of a Sentinels' master is not known before a connection."""
        if self.kind == "sentinel":
            return Server("redis")
        return Server("redis", self.path) if self.kind == "unix" else Server("redis", self.host, self.port)

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"redis+socket://{self.path} (db {self.db})"
        if self.kind == "sentinel":
            sentinels = ";".join(f"sentinel://{_host_and_port(host, port)}/{self.db}" for host, port in self.hosts)
            tls = ", TLS" if self.ssl else ""
            return f"{sentinels} (master {self.master_name}{tls})"
        return f"{'rediss' if self.ssl else 'redis'}://{_host_and_port(self.host, self.port)}/{self.db}"


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
