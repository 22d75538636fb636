"""The certificate that the page is served with off localhost: made by the device itself, on first use.

Browsers give a page the camera over TLS only.  Nobody vouches for such a certificate: the browser warns once, and the fingerprint that
`serve` prints is what a careful user compares.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 825  # the longest that Apple's systems take
_RENEW = datetime.timedelta(days=30)


def home() -> Path:
    """Where the certificate is kept: a folder of the user's."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bitreplay"


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _made(names: list[str]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bitreplay on this device")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of devices are often behind
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret + built.public_bytes(serialization.Encoding.PEM)


def _serves(content: bytes, names: Iterable[str]) -> bool:
    # Whether a file that is there is good for these names, and for a while.
    try:
        found = x509.load_pem_x509_certificate(content)
        serialization.load_pem_private_key(content, None)
        there = set(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return {_general(name) for name in names} <= there and found.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > _RENEW


def certificate(folder: Path, names: Iterable[str]) -> tuple[Path, str]:
    """Key and certificate for these names and addresses, in one PEM file that only the user may read.

    The one of an earlier start is kept while it serves, so that a browser that was told to trust it goes on doing so.

    Returns
    -------
    The file, and the SHA-256 fingerprint of the certificate.
    """
    path, wanted = folder / "certificate.pem", sorted(set(names))
    content = path.read_bytes() if path.exists() else b""
    if not _serves(content, wanted):
        content = _made(wanted)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)  # mode 600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    return path, x509.load_pem_x509_certificate(content).fingerprint(hashes.SHA256()).hex(":").upper()
