"""What a certificate says of itself: for which names, from when, until when, and what a machine would hold against it.

Left to others: whether its key fits (core.tls), whether anybody trusts it (nobody here can know), who is told.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization

SOON_S = 14 * 24 * 3600.0  # what renews itself is renewed by then: certbot does it 30 days before


class CertificateError(Exception):
    """There is no certificate in that file; one sentence."""


class Certificate(NamedTuple):
    names: tuple[str, ...]  # DNS names and addresses of its subjectAltName
    begins: float  # Unix seconds
    ends: float
    der: bytes

    def complaint(self, now: float) -> str:
        """Why machines refuse it, at *now* or soon; "" when nothing stands against it."""
        if now >= self.ends:
            return f"it has expired at {day(self.ends)}: machines refuse it"
        if now < self.begins:
            return f"it is valid from {day(self.begins)} on: machines refuse it until then"
        if not self.names:
            return "it has no subjectAltName with a name or an address: machines refuse it"
        if now >= self.ends - SOON_S:
            return f"it expires at {day(self.ends)}"
        return ""


def read(path: str | Path) -> Certificate:
    """The first certificate of a PEM file. Raises CertificateError."""
    try:
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
        names = _names(found)
    except OSError as error:
        raise CertificateError(f"{path}: expected a readable file, got {error.strerror}") from None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateError(f"{path}: expected a certificate in PEM, got something else") from None
    der = found.public_bytes(serialization.Encoding.DER)
    return Certificate(names, found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp(), der)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()[:16] + "Z"
