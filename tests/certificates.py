"""Certificates for servers of the tests: a root that clients trust, an intermediate, and a leaf."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificates:
    root: Path
    """What clients trust."""

    chain: Path
    """The leaf, for `localhost` and `127.0.0.1`, and the intermediate that signed it."""

    key: Path
    """The leaf's, in PKCS#8."""

    old_key: Path
    """The same in the format that was usual before, and that Granian cannot read."""

    def context(self) -> ssl.SSLContext:
        """For a client."""
        return ssl.create_default_context(cafile=self.root)

    def context_for_threads(self) -> ssl.SSLContext:
        """For a client like that of `websockets`, which reads in a thread.

        In TLS 1.3 that gets tickets, and now and then the request that is being written is lost on
        them (Python 3.11, OpenSSL 3.0).
        """
        context = self.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


def make_certificates(folder: Path) -> Certificates:
    root_key, root = _sign("Root", None, None, is_authority=True)
    middle_key, middle = _sign("Intermediate", root_key, root, is_authority=True)
    leaf_key, leaf = _sign("localhost", middle_key, middle, is_authority=False)
    made = Certificates(*(folder / f"{name}.pem" for name in ("root", "chain", "key", "old-key")))
    made.root.write_bytes(root.public_bytes(Encoding.PEM))
    made.chain.write_bytes(leaf.public_bytes(Encoding.PEM) + middle.public_bytes(Encoding.PEM))
    for path, kind in (
        (made.key, PrivateFormat.PKCS8),
        (made.old_key, PrivateFormat.TraditionalOpenSSL),
    ):
        path.write_bytes(leaf_key.private_bytes(Encoding.PEM, kind, NoEncryption()))
    return made


def _sign(
    name: str,
    issuer_key: ec.EllipticCurvePrivateKey | None,
    issuer: x509.Certificate | None,
    *,
    is_authority: bool,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    signing_key = issuer_key or key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(signing_key, hashes.SHA256())
