"""Conversation with one Firecracker over its API socket, and what is said in it.

The bodies are those of its `firecracker.yaml`; of each version that `vmm/firecracker.py` supports.
"""

import asyncio
import hashlib
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from microvmd.vmm.agent_door import pinned
from microvmd.vmm.machine import GUEST_MAC, Accelerator, AcceleratorKind, Drive, MachineSpec
from microvmd.vmm.process import Process

COMMAND_LIMIT = 30.0
"""Seconds for a request that moves no memory."""
START_LIMIT = 60.0
ANSWER_BYTES = 64 << 10
FAULT_LENGTH = 1000
POLL = 0.002
INTERFACE = "eth0"
GUEST_CID = 3
"""Of every guest: each has a vsock of its own."""
KERNEL_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd"
)
"""`reboot=k`: only a reset by the keyboard controller ends Firecracker."""
BOOT_SOURCE = "/boot-source"
"""Read by a boot alone: no clone has it."""
ID_LENGTH = 64
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""There is none on a UNIX socket; without this httpx reads all certificates for each machine."""


Request = tuple[str, dict[str, object]]
"""Path and body of a PUT."""


class FirecrackerFailed(Exception):
    """Firecracker refused a request, did not answer in time or went away."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where Firecracker finds its files; kernel and initramfs are for a boot only."""

    memory: str
    drives: tuple[str, ...]
    vsock: str
    kernel: str = ""
    initrd: str = ""
    device: str = ""


class FirecrackerApi:
    """A context manager. Keeps the API socket by its inode, whatever comes to have its name."""

    def __init__(self, pin: int) -> None:
        self._pin = pin
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=f"/proc/self/fd/{pin}", verify=NO_TLS),
            base_url="http://localhost",
            trust_env=False,
        )

    @classmethod
    async def of(cls, process: Process, socket: Path) -> Self:
        """As soon as Firecracker listens. Raises FirecrackerFailed."""
        try:
            async with asyncio.timeout(START_LIMIT):
                while True:
                    api = cls._found(socket)
                    if api is not None and await api._answers():
                        return api
                    if process.exited:
                        raise FirecrackerFailed("Firecracker has ended")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise FirecrackerFailed(f"no API socket within {START_LIMIT:.0f} s") from None

    @classmethod
    def _found(cls, socket: Path) -> Self | None:
        try:
            return cls(pinned(socket))
        except OSError:
            return None

    async def _answers(self) -> bool:
        try:
            await self.get("/")
        except FirecrackerFailed:
            await self.close()
            return False
        return True

    async def close(self) -> None:
        await self._client.aclose()
        os.close(self._pin)

    async def get(self, path: str) -> dict[str, Any]:
        return await self._request("GET", path, None, COMMAND_LIMIT)

    async def put(
        self, path: str, body: dict[str, object], *, limit: float = COMMAND_LIMIT
    ) -> None:
        await self._request("PUT", path, body, limit)

    async def patch(self, path: str, body: dict[str, object]) -> None:
        await self._request("PATCH", path, body, COMMAND_LIMIT)

    async def _request(
        self, method: str, path: str, body: dict[str, object] | None, limit: float
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(limit):
                answer, content = await self._exchange(method, path, body, limit)
        except (httpx.HTTPError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            raise FirecrackerFailed(f"{method} {path}: {what}") from error
        if answer.is_error:
            raise FirecrackerFailed(f"{method} {path}: {_fault(answer.status_code, content)}")
        return _members(content)

    async def _exchange(
        self, method: str, path: str, body: dict[str, object] | None, limit: float
    ) -> tuple[httpx.Response, bytes]:
        """The answer comes from a VMM that its guest may have taken over: it is bounded."""
        content = b""
        async with self._client.stream(method, path, json=body, timeout=limit) as answer:
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > ANSWER_BYTES:
                    raise FirecrackerFailed(f"{method} {path}: the answer is too long")
        return answer, content


def _members(content: bytes) -> dict[str, Any]:
    try:
        found: object = json.loads(content) if content else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _fault(status: int, content: bytes) -> str:
    told = _members(content).get("fault_message")
    return str(told)[:FAULT_LENGTH] if told else f"status {status}"


def boot_requests(
    spec: MachineSpec, paths: Paths, tap: str | None, cpu_template: str = ""
) -> list[Request]:
    """What makes the machine before it starts, in order: the guest finds drives by position.

    No MMDS (the node has a metadata service of its own) and no balloon: a page that a guest gives
    back through one is zero in its clones instead of the image's, and is no smaller in a diff.
    """
    command_line = f"{KERNEL_COMMAND_LINE} {spec.command_line}".strip()
    requests: list[Request] = [
        (
            "/machine-config",
            {
                "vcpu_count": spec.vcpus,
                "mem_size_mib": spec.memory_mib,
                "smt": False,
                "track_dirty_pages": False,
                **({"cpu_template": cpu_template} if cpu_template else {}),
            },
        ),
        (
            BOOT_SOURCE,
            {
                "kernel_image_path": paths.kernel,
                "initrd_path": paths.initrd,
                "boot_args": command_line,
            },
        ),
    ]
    for drive, path in zip(spec.drives, paths.drives, strict=True):
        requests.append((f"/drives/{drive.name}", _drive(drive, path)))
    if tap is not None:
        card = {"iface_id": INTERFACE, "guest_mac": GUEST_MAC, "host_dev_name": tap}
        requests.append((f"/network-interfaces/{INTERFACE}", {**card}))
    requests.append(("/vsock", {"guest_cid": GUEST_CID, "uds_path": paths.vsock}))
    requests.append(("/entropy", {}))
    return requests


def device_set() -> str:
    """Digest of the devices of every clone: a device state fits into no other set."""
    nothing, accelerator = Path("/"), Accelerator(AcceleratorKind.KVM, "any", 0)
    drives = (Drive("rootfs", nothing, read_only=True), Drive("disk", nothing))
    spec = MachineSpec(1, 1, nothing, nothing, nothing, accelerator, drives)
    requests = boot_requests(spec, Paths("", ("rootfs", "disk"), "vsock"), "tap")
    devices = [one for one in requests if one[0] != BOOT_SOURCE]
    return hashlib.sha256(json.dumps(devices, sort_keys=True).encode()).hexdigest()[:12]


def _drive(drive: Drive, path: str) -> dict[str, object]:
    """`Sync`: io_uring is not in a jail. `Writeback`: a flush of the guest reaches the disk."""
    return {
        "drive_id": drive.name,
        "path_on_host": path,
        "is_root_device": False,
        "is_read_only": drive.read_only,
        "cache_type": "Writeback",
        "io_engine": "Sync",
    }


def load_request(paths: Paths, tap: str | None) -> dict[str, object]:
    """The memory file is mapped privately: clones share its pages until they write to them."""
    overrides = [] if tap is None else [{"iface_id": INTERFACE, "host_dev_name": tap}]
    return {
        "snapshot_path": paths.device,
        "mem_backend": {"backend_type": "File", "backend_path": paths.memory},
        "resume_vm": False,
        "network_overrides": overrides,
    }


def identifier(name: str) -> str:
    """What Firecracker takes as the id of a machine."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:ID_LENGTH]
