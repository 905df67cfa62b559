"""The local certificate authority and the wildcard certificate that the edge shows.

The CA is name-constrained to the service's domain: whoever steals its key can impersonate nothing
else. IP addresses are left out of the constraint on purpose: BoringSSL (gRPC) rejects certificates
of a CA that has one.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_LIFE = timedelta(days=3650)
# Apple's clients refuse leaf certificates of more than 398 days.
_LEAF_LIFE = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)
_BACKDATE = timedelta(hours=1)
_SYSTEM_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)


_Identity = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files for HAProxy (`edge`: key and chain) and for clients (`bundle`: system's CAs and `ca`).

    AWS_CA_BUNDLE, SSL_CERT_FILE and their like replace the system's list: clients that also talk to
    the rest of the world need `bundle`.
    """

    ca: Path
    bundle: Path
    edge: Path
    not_after: datetime
    digest: str


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step: a reader sees the old or the new content, never half of it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _make_authority(domain: str, now: datetime) -> _Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"microvmd local CA for {domain}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=[x509.DNSName(domain)], excluded_subtrees=None),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _make_leaf(
    suffix: str,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    now: datetime,
) -> _Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(f"*.{suffix}"), x509.DNSName(suffix)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name("microvmd edge"))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(min(now + _LEAF_LIFE, ca.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return key, certificate


def _load(path: Path) -> _Identity | None:
    """Key and first certificate of one file; None when it is missing or damaged."""
    try:
        content = path.read_bytes()
        key = serialization.load_pem_private_key(content, password=None)
        certificate = x509.load_pem_x509_certificate(content)
    except (FileNotFoundError, ValueError):
        return None
    return (key, certificate) if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _permits(ca: x509.Certificate, domain: str) -> bool:
    constraints = ca.extensions.get_extension_for_class(x509.NameConstraints).value
    return constraints.permitted_subtrees == [x509.DNSName(domain)]


def _covers(leaf: x509.Certificate, ca: x509.Certificate, suffix: str) -> bool:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        leaf.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return f"*.{suffix}" in names.get_values_for_type(x509.DNSName)


def _system_certificates() -> bytes:
    default = ssl.get_default_verify_paths().cafile
    for candidate in ([Path(default)] if default else []) + list(_SYSTEM_BUNDLES):
        if candidate.is_file():
            return candidate.read_bytes().rstrip(b"\n") + b"\n"
    return b""


def ensure(
    directory: Path, *, domain: str, suffix: str, now: datetime | None = None
) -> Certificates:
    """Make what is missing, renew what expires within 30 days, leave the rest as it is.

    The CA is kept for ten years, so that clients which trust it need not be told again; it is
    replaced only when it is about to expire or belongs to another domain.
    """
    moment = now if now is not None else datetime.now(UTC)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    ca_key_file, ca_file = directory / "ca.key", directory / "ca.pem"
    bundle, edge = directory / "bundle.pem", directory / "edge.pem"

    authority = _load(ca_key_file)
    if (
        authority is None
        or authority[1].not_valid_after_utc < moment + _LEAF_LIFE
        or not _permits(authority[1], domain)
    ):
        authority = _make_authority(domain, moment)
        _write(ca_key_file, _key_pem(authority[0]) + _pem(authority[1]), 0o600)
    ca_key, ca = authority
    leaf = _load(edge)
    if (
        leaf is None
        or leaf[1].not_valid_after_utc < moment + _RENEW_BEFORE
        or not _covers(leaf[1], ca, suffix)
    ):
        leaf = _make_leaf(suffix, ca_key, ca, moment)
        _write(edge, _key_pem(leaf[0]) + _pem(leaf[1]) + _pem(ca), 0o600)
    _write(ca_file, _pem(ca), 0o644)
    _write(bundle, _system_certificates() + _pem(ca), 0o644)
    return Certificates(
        ca=ca_file,
        bundle=bundle,
        edge=edge,
        not_after=leaf[1].not_valid_after_utc,
        digest=hashlib.sha256(edge.read_bytes()).hexdigest(),
    )
