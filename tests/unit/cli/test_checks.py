"""Checks of the machine: what each reads, and that a bad state has a remedy."""

import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from microvmd.cli import checks
from microvmd.settings.network import NetworkSettings
from microvmd.settings.settings import ApiSettings, EdgeSettings, Settings, VmmSettings

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0103000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0003000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_routes() -> None:
    assert checks._routes(ROUTES) == [
        ("eth0", IPv4Network("0.0.0.0/0")),
        ("eth0", IPv4Network("10.0.3.0/24")),
    ]


def test_taken_port_is_found_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = checks.ports(
            Settings(api=ApiSettings(port=port), edge=EdgeSettings(host="127.0.0.1", port=1))
        )
    assert found.state == "failed"
    assert f"127.0.0.1:{port}" in found.why
    assert "MICROVMD_API_PORT" in found.mend


def test_subnet_in_use() -> None:
    found = checks.subnet(Settings(network=NetworkSettings(subnet=IPv4Network("10.200.0.0/16"))))
    assert found.state in ("ok", "failed")
    assert bool(found.mend) == (found.state == "failed")


def test_user_ids_of_real_users_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.user_ids(Settings(vmm=VmmSettings(uid_first=2_000_000))).state == "ok"


def test_missing_assets_are_named(tmp_path: Path) -> None:
    found = checks.assets(Settings(assets=tmp_path))
    assert found.state == "failed"
    assert "microvmd-agent" in found.why
    assert "kernel" in found.why
    assert "./run setup" in found.mend


def test_accelerator_without_a_kernel(tmp_path: Path) -> None:
    found = checks.accelerator(Settings(assets=tmp_path, cache=tmp_path))
    assert found.state == "failed"
    assert "./run setup" in found.mend


def test_emulation_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    settings = Settings(vmm=VmmSettings(accelerator="tcg"), cache=tmp_path)
    if not (settings.assets / "kernel").is_dir():
        pytest.skip("needs a guest kernel: ./run setup makes it")
    found = checks.accelerator(settings)
    assert found.state == "warning"
    assert "as configured" in found.why


def test_the_vmm_is_told_with_the_reason(tmp_path: Path) -> None:
    found = checks.VmmChecks().choice(Settings(vmm=VmmSettings(kind="qemu"), cache=tmp_path))
    assert (found.state, found.why.split()[0]) == ("ok", "QEMU")
    found = checks.VmmChecks().choice(
        Settings(vmm=VmmSettings(kind="auto", accelerator="tcg"), cache=tmp_path)
    )
    assert found.state == "ok"
    assert "Firecracker needs KVM" in found.why
    (tmp_path / "firecracker").write_text("#!/bin/sh\necho Firecracker v1.12.1\n")
    (tmp_path / "firecracker").chmod(0o755)
    wanted = VmmSettings(kind="firecracker", accelerator="kvm")
    found = checks.VmmChecks().choice(Settings(vmm=wanted, assets=tmp_path, cache=tmp_path))
    assert (found.state, found.why) == ("ok", "Firecracker 1.12.1: as configured")
    both = VmmSettings(kind="qemu", offered=("firecracker",), accelerator="kvm")
    found = checks.VmmChecks().choice(Settings(vmm=both, assets=tmp_path, cache=tmp_path))
    assert found.why.endswith(": as configured; images may choose Firecracker 1.12.1")
    other = wanted.model_copy(update={"firecracker_sha256": "0" * 64})
    found = checks.VmmChecks().choice(Settings(vmm=other, assets=tmp_path, cache=tmp_path))
    assert found.state == "failed"
    assert "not vmm.firecracker_sha256" in found.why


def test_vmms_are_asked_once_for_a_report(tmp_path: Path) -> None:
    program = tmp_path / "firecracker"
    program.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho Firecracker v1.12.1\n")
    program.chmod(0o755)
    wanted = VmmSettings(kind="firecracker", accelerator="kvm")
    settings = Settings(vmm=wanted, assets=tmp_path, cache=tmp_path, root=tmp_path)
    every = checks.all_checks()
    for name in ("VMM", "snapshots"):
        assert every[name](settings).state == "ok"
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_old_guest_kernel(tmp_path: Path) -> None:
    for name in ("microvmd-agent", "microvmd-jailer"):
        (tmp_path / name).touch(mode=0o755)
    for release, state in (("6.1.0-40-cloud-amd64", "failed"), ("6.12.9-cloud-amd64", "ok")):
        (tmp_path / "kernel" / release).mkdir(parents=True)
        (tmp_path / "kernel" / release / "vmlinuz").touch()
        assert checks.assets(Settings(assets=tmp_path)).state == state


@pytest.mark.parametrize("domain", ["microvm.localhost", "no-such-domain.invalid"])
def test_names(domain: str) -> None:
    found = checks.names(Settings(edge=EdgeSettings(domain=domain)))
    if domain.endswith("invalid"):
        assert found.state == "failed"
        assert "DNS wildcard" in found.mend


def test_the_rest_answers_on_any_machine() -> None:
    for check in (
        checks.privileges,
        checks.cgroups,
        checks.forwarding,
        checks.disk,
        checks.memory,
        checks.clock,
    ):
        found = check(Settings())
        assert found.why
        assert (found.state == "ok") == (not found.mend)
