"""A certificate authority for tests, and servers that speak TLS with what it signed."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fibo_worker.dev import StartError
from support.servers import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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

    def own(self, name: str, *hosts: str) -> Pair:
        """Make a certificate that vouches for itself, as many a server starts with."""
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
    """A server's settings for TLS. With `clients` it wants a certificate of each."""
    return {
        "tls-cert-file": str(pair.cert),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(ca),
        "tls-auth-clients": "yes" if clients else "no",
    }


@contextlib.contextmanager
def tls_server(pair: Pair, ca: Path, *, clients: bool = False) -> Iterator[tuple[RedisServer, int]]:
    """Run a Redis that speaks TLS on the port given beside it, and plainly on its own."""
    port = free_port()
    server = RedisServer(options={**tls_options(pair, ca, clients=clients), "tls-port": str(port)})
    try:
        server.start()
    except StartError as error:
        if "Bad directive" in str(error):
            pytest.skip("this Redis was built without TLS")
        raise
    try:
        yield server, port
    finally:
        server.stop()
