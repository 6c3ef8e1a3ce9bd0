"""Where a Redis is, and how to connect to it: what a URL says, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fibo_client.telemetry.tracer import Server

CertReqs = Literal["required", "optional", "none"]
Role = Literal["broker_url", "result_backend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """How a TLS connection checks the server and shows itself.

    Attributes:
        cert_reqs: Whether the server's certificate is checked.
        ca_certs: A file of certificate authorities. None is the system's.
        certfile: The client's certificate.
        keyfile: The key of the client's certificate.
        check_hostname: Whether the certificate must be for the server's host name.
    """

    cert_reqs: CertReqs = "required"
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True


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
        ssl: How to speak TLS (tcp, sentinel: with Redis and the Sentinels alike). None is no TLS.
        master_name: The name of the master that the Sentinels watch (sentinel).
    """

    kind: Literal["tcp", "unix", "sentinel"]
    host: str = ""
    port: int = 0
    path: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: TLSOptions | None = None
    master_name: str | None = None

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
