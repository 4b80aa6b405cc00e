"""Certificates for tests: a CA and leaves, as PEM files and PKCS12."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

PASSWORD = "changeit"


class Authority:
    """Signs leaves; writes everything into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key, [], ca=True)
        self.pem = folder / f"{name}.pem"
        self.pem.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self.p12 = folder / f"{name}.p12"
        trusted = [pkcs12.PKCS12Certificate(self.certificate, b"ca")]
        self.p12.write_bytes(pkcs12.serialize_java_truststore(trusted, BestAvailableEncryption(PASSWORD.encode())))

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, hosts: list[str], ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = subject if ca else self.certificate.subject
        now = datetime.datetime.now(datetime.UTC)
        names = [_name(host) for host in hosts]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def leaf(self, name: str, *hosts: str, password: str = "") -> tuple[Path, Path]:
        """(PEM with key and certificate, PKCS12) of a certificate for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key, list(hosts), ca=False)
        lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        pem, p12 = self.folder / f"{name}.pem", self.folder / f"{name}.p12"
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock) + certificate.public_bytes(Encoding.PEM)
        )
        lock = BestAvailableEncryption(PASSWORD.encode())
        p12.write_bytes(pkcs12.serialize_key_and_certificates(b"k", key, certificate, [self.certificate], lock))
        return pem, p12


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
