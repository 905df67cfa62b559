"""What clients are asked to trust: constrained, private where it must be, renewed in time."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from microvmd.edge import certificates
from microvmd.edge.certificates import Certificates

DOMAIN = "microvm.localhost"
SUFFIX = f"lambda-microvm.us-east-1.{DOMAIN}"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _ensure(directory: Path, *, days: int = 0, domain: str = DOMAIN) -> Certificates:
    suffix = SUFFIX.replace(DOMAIN, domain)
    return certificates.ensure(directory, domain=domain, suffix=suffix, now=NOW + timedelta(days))


def test_the_leaf_is_valid_for_every_endpoint(tmp_path: Path) -> None:
    made = _ensure(tmp_path)
    leaf = x509.load_pem_x509_certificate(made.edge.read_bytes())
    ca = x509.load_pem_x509_certificate(made.ca.read_bytes())
    verifier = PolicyBuilder().store(Store([ca])).time(NOW)
    chain = verifier.build_server_verifier(x509.DNSName(f"some-id.{SUFFIX}")).verify(leaf, [])
    assert chain == [leaf, ca]
    constraint = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraint.critical
    assert constraint.value.permitted_subtrees == [x509.DNSName(DOMAIN)]


def test_keys_are_private_and_the_rest_is_not(tmp_path: Path) -> None:
    made = _ensure(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"ca.key": 0o600, "edge.pem": 0o600, "ca.pem": 0o644, "bundle.pem": 0o644}
    assert made.bundle.read_bytes().endswith(made.ca.read_bytes())
    assert b"PRIVATE" not in made.bundle.read_bytes()


def test_nothing_changes_without_a_reason(tmp_path: Path) -> None:
    assert _ensure(tmp_path) == _ensure(tmp_path, days=300)


def test_the_leaf_is_renewed_and_the_authority_stays(tmp_path: Path) -> None:
    before = _ensure(tmp_path)
    authority = before.ca.read_bytes()
    after = _ensure(tmp_path, days=370)
    assert after.digest != before.digest
    assert after.not_after > before.not_after
    assert after.ca.read_bytes() == authority


def test_another_domain_gets_another_authority(tmp_path: Path) -> None:
    before = _ensure(tmp_path).ca.read_bytes()
    after = _ensure(tmp_path, domain="vms.example.org")
    assert after.ca.read_bytes() != before
    assert "example.org" in str(x509.load_pem_x509_certificate(after.edge.read_bytes()).extensions)


def test_damaged_files_are_replaced(tmp_path: Path) -> None:
    _ensure(tmp_path)
    for name in ("ca.key", "edge.pem"):
        (tmp_path / name).write_text("garbage")
    made = _ensure(tmp_path)
    leaf = x509.load_pem_x509_certificate(made.edge.read_bytes())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(made.ca.read_bytes()))
