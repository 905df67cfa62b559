"""What Firecracker is asked, and what its answers mean."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from microvmd.vmm import firecracker_api as module
from microvmd.vmm.agent_door import pinned
from microvmd.vmm.firecracker_api import (
    ANSWER_BYTES,
    FirecrackerApi,
    FirecrackerFailed,
    Paths,
    boot_requests,
    device_set,
    identifier,
    load_request,
)
from microvmd.vmm.machine import GUEST_MAC, Accelerator, AcceleratorKind, Drive, MachineSpec

NOTHING = Path("/")
SPEC = MachineSpec(
    512,
    2,
    NOTHING,
    NOTHING,
    NOTHING,
    Accelerator(AcceleratorKind.KVM, "test", 0),
    (Drive("rootfs", NOTHING, read_only=True), Drive("disk", NOTHING)),
    command_line="extra",
)
PATHS = Paths("memory", ("drive0", "drive1"), "vsock", "kernel", "initrd", "device")


def test_a_boot_names_all_devices_in_order() -> None:
    requests = boot_requests(SPEC, PATHS, "tap0")
    assert [path for path, _ in requests] == [
        "/machine-config",
        "/boot-source",
        "/drives/rootfs",
        "/drives/disk",
        "/network-interfaces/eth0",
        "/vsock",
        "/entropy",
    ]
    bodies = dict(requests)
    assert bodies["/machine-config"] == {
        "vcpu_count": 2,
        "mem_size_mib": 512,
        "smt": False,
        "track_dirty_pages": False,
    }
    assert str(bodies["/boot-source"]["boot_args"]).endswith(" i8042.dumbkbd extra")
    assert bodies["/drives/rootfs"]["is_read_only"] is True
    assert bodies["/drives/disk"]["path_on_host"] == "drive1"
    assert bodies["/network-interfaces/eth0"]["guest_mac"] == GUEST_MAC


def test_without_a_tap_there_is_no_card() -> None:
    assert "/network-interfaces/eth0" not in dict(boot_requests(SPEC, PATHS, None))
    assert load_request(PATHS, None)["network_overrides"] == []


def test_a_template_is_asked_for_by_name() -> None:
    assert dict(boot_requests(SPEC, PATHS, None, "T2"))["/machine-config"]["cpu_template"] == "T2"


def test_the_device_set_changes_with_what_a_guest_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {device_set()}
    monkeypatch.setattr(module, "KERNEL_COMMAND_LINE", "other")
    assert device_set() in found, "the kernel's command line is read by a boot alone"
    for change in (
        lambda drive, path: {"path_on_host": path},
        lambda drive, path: {"path_on_host": path, "rate_limiter": {}},
    ):
        monkeypatch.setattr(module, "_drive", change)
        found.add(device_set())
    monkeypatch.setattr(module, "GUEST_MAC", "02:00:00:00:00:03")
    found.add(device_set())
    assert len(found) == 4


def test_a_restore_stands_still() -> None:
    assert load_request(PATHS, "tap0") == {
        "snapshot_path": "device",
        "mem_backend": {"backend_type": "File", "backend_path": "memory"},
        "resume_vm": False,
        "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap0"}],
    }


def test_an_id_is_letters_digits_and_dashes() -> None:
    assert identifier("microvm-1.a_b") == "microvm-1-a-b"
    assert len(identifier("x" * 100)) == 64


@contextlib.asynccontextmanager
async def answering(path: Path, status: str, body: str) -> AsyncIterator[FirecrackerApi]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        api = FirecrackerApi(pinned(path))
        try:
            yield api
        finally:
            await api.close()


@pytest.mark.anyio
async def test_an_answer_is_its_body(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", "200 OK", '{"state": "Running"}') as api:
        assert await api.get("/") == {"state": "Running"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "shown"), [('{"fault_message": "no such drive"}', "no such drive"), ("x", "400")]
)
async def test_a_refusal_tells_why(tmp_path: Path, body: str, shown: str) -> None:
    async with answering(tmp_path / "s", "400 Bad Request", body) as api:
        with pytest.raises(FirecrackerFailed, match=f"PUT /vsock: .*{shown}"):
            await api.put("/vsock", {})


@pytest.mark.anyio
async def test_an_answer_without_end_is_not_read(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", "200 OK", "x" * (ANSWER_BYTES + 1)) as api:
        with pytest.raises(FirecrackerFailed, match="too long"):
            await api.get("/")
    async with answering(tmp_path / "t", "200 OK", "[" * 10_000) as api:
        assert await api.get("/") == {}


@pytest.mark.anyio
async def test_one_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", "204 No Content", "") as api:
        await api.patch("/vm", {"state": "Paused"})
        (tmp_path / "s").unlink()
    api = FirecrackerApi(_closed_socket(tmp_path / "t"))
    with pytest.raises(FirecrackerFailed, match="GET /"):
        await api.get("/")
    await api.close()


def _closed_socket(path: Path) -> int:

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        return pinned(path)
