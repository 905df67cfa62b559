"""Each claim of SECURITY.md is looked at, and what weakens it has a remedy."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from microvmd.cli import security_checks
from microvmd.node.bring_up import VmmRecord
from microvmd.node.paths import NodePaths
from microvmd.settings.settings import ApiSettings, AwsSettings, Settings, VmmSettings
from microvmd.vmm.process import ProcessIdentity


def test_every_finding_that_is_not_ok_has_a_remedy(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path / "root")
    for name, check in security_checks.CHECKS.items():
        found = check(settings)
        assert found.why, name
        assert bool(found.mend) == (found.state != "ok") or name == "processor"


@pytest.mark.parametrize("seccomp", ["log", "off"])
def test_vmms_without_a_filter(seccomp: str) -> None:
    settings = Settings(vmm=VmmSettings.model_validate({"seccomp": seccomp}))
    assert security_checks.filters(settings).state == "failed"
    assert "MICROVMD_VMM_SECCOMP" in security_checks.filters(settings).mend
    assert security_checks.filters(Settings()).state == "ok"


@pytest.mark.parametrize(
    ("host", "state"),
    [("127.0.0.1", "ok"), ("::1", "ok"), ("localhost", "ok"), ("0.0.0.0", "warning")],
)
def test_where_the_api_listens(host: str, state: str) -> None:
    assert security_checks.api_address(Settings(api=ApiSettings(host=host))).state == state


def test_files_that_others_can_read(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    tmp_path.chmod(0o755)
    record, keys = tmp_path / "state.db", tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "master.key").touch(mode=0o644)
    record.touch(mode=0o600)
    assert security_checks.files(settings).state == "ok", "nobody gets past the directory"
    record.chmod(0o640)
    found = security_checks.files(settings)
    assert (found.state, found.mend) == ("failed", f"chmod go-rwx {record}")
    assert "0640" in found.why


def test_a_vmm_outside_of_a_jail_is_found(tmp_path: Path) -> None:
    """This process stands for one."""
    paths = NodePaths(tmp_path)
    settings = Settings(root=tmp_path)
    assert security_checks.vmms(settings).why.startswith("0 VMMs run")
    files = paths.microvm("microvm-1")
    files.directory.mkdir(parents=True)
    VmmRecord(ProcessIdentity.of(os.getpid()), "net", "jail").write(files.identity)
    found = security_checks.vmms(settings)
    assert found.state == "failed"
    assert found.why.startswith("microvm-1: it ")


@pytest.mark.parametrize(("days", "state"), [(100, "ok"), (3, "warning"), (-1, "failed")])
def test_how_long_the_certificate_holds(days: int, state: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, SHA256())
    )
    place = tmp_path / "ca" / "edge.pem"
    place.parent.mkdir()
    place.write_bytes(made.public_bytes(Encoding.PEM))
    assert security_checks.certificates(Settings(root=tmp_path)).state == state


def test_kernel_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_checks, "SYSCTL", tmp_path)
    monkeypatch.setattr(security_checks, "VULNERABILITIES", tmp_path / "none")
    assert security_checks.processor(Settings()).state == "warning"
    assert security_checks.filters(Settings()).state == "failed"
    assert security_checks.kernel_secrets(Settings()).state == "warning"
    assert security_checks.user_namespaces(Settings()).state == "ok"


def test_dumps_of_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("kernel", "fs"):
        (tmp_path / directory).mkdir()
    (tmp_path / "kernel/core_pattern").write_text("|/usr/bin/catcher %p\n")
    monkeypatch.setattr(security_checks, "SYSCTL", tmp_path)
    for value, state in (("0", "ok"), ("1", "failed"), ("2", "warning")):
        (tmp_path / "fs/suid_dumpable").write_text(value)
        assert security_checks.core_dumps(Settings()).state == state


def test_real_services_are_better_than_the_emulation() -> None:
    real = AwsSettings(local=False, s3_endpoint="https://s3", sts_endpoint="https://sts")
    assert security_checks.local_aws(Settings(aws=real)).state == "ok"
