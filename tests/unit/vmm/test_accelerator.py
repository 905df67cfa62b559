"""The choice of accelerator: configured, remembered for this boot, or probed."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.vmm import accelerator
from microvmd.vmm.accelerator import ProbeGuest, detect, measure_tsc_khz
from microvmd.vmm.machine import AcceleratorKind

pytestmark = pytest.mark.anyio


@pytest.fixture
def guest(tmp_path: Path) -> ProbeGuest:
    return ProbeGuest(tmp_path / "kernel", tmp_path / "initrd")


async def test_without_kvm_it_is_tcg_and_that_is_remembered(
    guest: ProbeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "accelerator.json"
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "kvm")
    found = await detect("auto", guest, cache)
    assert (found.kind, found.reason) == (AcceleratorKind.TCG, f"{tmp_path}/kvm does not exist")
    (tmp_path / "kvm").touch()
    assert await detect("auto", guest, cache) == found
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another boot")
    monkeypatch.setattr(accelerator, "BOOT_ID", boot_id)
    monkeypatch.setattr(accelerator, "_probe", _working)
    assert (await detect("auto", guest, cache)).kind is AcceleratorKind.KVM
    assert json.loads(cache.read_text())["boot_id"] == "another boot"


async def _working(guest: ProbeGuest) -> tuple[AcceleratorKind, str]:
    return AcceleratorKind.KVM, "a guest booted"


async def test_a_damaged_cache_is_asked_again(
    guest: ProbeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "kvm")
    cache = tmp_path / "accelerator.json"
    for content in ("", "[]", "{}", '{"boot_id": 1}'):
        cache.write_text(content)
        assert (await detect("auto", guest, cache)).kind is AcceleratorKind.TCG


async def test_a_vmm_that_cannot_start_is_a_reason(
    guest: ProbeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "KVM", Path("/dev/null"))
    broken = ProbeGuest(guest.kernel, guest.initrd, qemu=Path("/bin/false"))
    found = await detect("auto", broken, tmp_path / "accelerator.json")
    assert found.kind is AcceleratorKind.TCG
    assert "QEMU cannot use it" in found.reason


async def test_configured_is_not_probed(guest: ProbeGuest, tmp_path: Path) -> None:
    found = await detect("kvm", guest, tmp_path / "accelerator.json")
    assert (found.kind, found.reason) == (AcceleratorKind.KVM, "as configured")
    assert not (tmp_path / "accelerator.json").exists()
    with pytest.raises(ValueError, match="fast"):
        await detect("fast", guest, tmp_path / "accelerator.json")


def test_time_stamp_counter_is_plausible() -> None:
    assert 500_000 < measure_tsc_khz() < 10_000_000


def test_a_stop_between_two_looks_does_not_change_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter of 1 GHz; every third look at the clock takes 30 ms."""
    passed, looks = [0], [0]

    def clock(_: int) -> int:
        looks[0] += 1
        passed[0] += 100 if looks[0] % 3 else 30_000_000
        return passed[0]

    def sleep(seconds: float) -> None:
        passed[0] += round(seconds * 1e9)

    monkeypatch.setattr(time, "clock_gettime_ns", clock)
    monkeypatch.setattr(time, "sleep", sleep)
    assert accelerator._sample_khz(lambda: passed[0]) == pytest.approx(1_000_000, rel=1e-5)


async def test_a_guest_that_is_slower_than_the_limit_is_a_reason(
    guest: ProbeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: ProbeGuest, __: object, limit: float) -> None:
        async with asyncio.timeout(limit):
            await asyncio.Event().wait()

    monkeypatch.setattr(accelerator, "KVM", Path("/dev/null"))
    monkeypatch.setattr(accelerator, "boots", never)
    found = await detect("auto", replace(guest, limit=0.01), tmp_path / "accelerator.json")
    assert found.kind is AcceleratorKind.TCG
    assert found.reason.endswith("no guest boots within 0.01 s")
