"""Certificates of an authority made for a test: a server's, a client's, and one of another authority."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["make_certificates"]

_DAY = dt.timedelta(days=1)


def make_certificates(folder: Path) -> None:
    """Write `ca.pem`, `server.pem` (key and chain), `client.pem` with `client.key`, and `other.pem`, an unknown authority."""
    authority = _issued("Test authority", None)
    _write(folder / "ca.pem", authority[0])
    _write(folder / "other.pem", _issued("Another authority", None)[0])
    server, client = _issued("127.0.0.1", authority), _issued("client", authority)
    _write(folder / "server.pem", server[1], server[0], authority[0])
    _write(folder / "client.pem", client[0])
    _write(folder / "client.key", client[1])


def _issued(name: str, authority: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """Return (certificate, key) signed by an authority, itself where None."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if authority is None else (authority[0].subject, authority[1])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now - _DAY, now + _DAY)
    builder = builder.add_extension(x509.BasicConstraints(authority is None, None), critical=True)
    return builder.add_extension(address, critical=False).sign(signer, hashes.SHA256()), key


def _write(file: Path, *parts: Any) -> None:
    file.write_bytes(b"".join(_pem(part) for part in parts))


def _pem(part: Any) -> bytes:
    if isinstance(part, x509.Certificate):
        return part.public_bytes(serialization.Encoding.PEM)
    pkcs8 = serialization.PrivateFormat.PKCS8
    return bytes(part.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()))
