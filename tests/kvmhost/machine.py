"""The KVM host as a machine: an emulated one whose processor can itself virtualise (AMD SVM).

It boots once; what it is then, before any guest of its own, is kept in the cache: memory in a file
that later machines map private, device state, and the disk as it was. So the next one runs within a
second. A processor that has entered a guest cannot be saved, so nothing is kept after that.
"""

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from microvmd.vmm.accelerator import measure_tsc_khz
from tests.kvmhost.root import CACHE, HostFiles, locked, make

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 6144
"""Taken from this machine page by page, as guests in there touch it."""
BOOT_LIMIT = 300.0
ANSWER_LIMIT = 300.0
QMP_LIMIT = 120.0
OUTPUT, ERRORS, EXIT, READY = b"o", b"e", b"x", b"r"
CPU = "EPYC-v4,+svm,+npt"
MACHINE = "q35,suppress-vmdesc=on,memory-backend=memory"
KERNEL_WORDS = "console=ttyS0 reboot=t panic=-1 mitigations=off kvm.halt_poll_ns=0"
"""Nobody attacks this machine, and polling for its guests only takes time from them."""
WARMING = (
    ["python3", "-c", "import pytest, anyio, hypothesis, boto3, botocore.session, moto.server, "
                      "sqlalchemy, httpx, h11, cryptography.x509, structlog, rich.table, regex, "
                      "qemu.qmp, pydantic_settings, starlette.applications, _pytest.junitxml"],
    ["sh", "-c", "echo 'int main(void) { return 0; }' > /tmp/warm.c && "
                 "gcc -static -O2 -o /tmp/warm /tmp/warm.c && /tmp/warm && rm /tmp/warm*"],
    ["sh", "-c", "qemu-system-x86_64 --version && mkfs.erofs --help && mke2fs -V && nft --version"],
)  # fmt: skip
PANIC = "Kernel panic"
STATE_NAMES = ("memory", "device", "disk.qcow2")

Sink = Callable[[bytes, bytes], None]


class HostFailed(Exception):
    """The KVM host did not start, or did not answer; carries the end of its console."""


class HostPanicked(HostFailed):
    """Its Linux ended with a panic, which no program in there should be able to bring about."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended in the host."""

    code: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")


class KvmHost:
    """A host that runs. One command at a time."""

    def __init__(
        self, directory: Path, process: "subprocess.Popen[bytes]", line: socket.socket
    ) -> None:
        self.directory = directory
        self._process = process
        self._line = line

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(
        self,
        argv: Sequence[str],
        *,
        limit: float,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        data: bytes = b"",
        sink: Sink | None = None,
    ) -> Done:
        """Run a command as root. ``sink`` gets what it prints as it comes. Raises HostFailed."""
        command = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "input": len(data)}
        until = time.monotonic() + limit
        parts: dict[bytes, bytearray] = {OUTPUT: bytearray(), ERRORS: bytearray()}
        self._line.settimeout(limit)
        try:
            # The clock stood still while the snapshot lay in the cache.
            self._line.sendall(json.dumps({**command, "time": time.time()}).encode() + b"\n" + data)
            while True:
                kind, part = self._frame(until)
                if kind == EXIT:
                    return Done(int(part), bytes(parts[OUTPUT]), bytes(parts[ERRORS]))
                parts[kind] += part
                if sink is not None:
                    sink(kind, part)
        except (TimeoutError, OSError, EOFError) as error:
            console = console_end(self.directory)
            failed = HostPanicked if PANIC in console else HostFailed
            raise failed(
                f"{' '.join(argv)[:200]}: no end within {limit:.0f} s ({error!r}); printed last: "
                f"{bytes(parts[OUTPUT] + parts[ERRORS])[-2000:].decode(errors='replace')}; "
                f"console: {console}"
            ) from error

    def put(self, archive: bytes, directory: str) -> None:
        """Unpack a tar archive there."""
        self.run(["mkdir", "-p", directory], limit=ANSWER_LIMIT)
        done = self.run(["tar", "-xf", "-", "-C", directory], limit=ANSWER_LIMIT, data=archive)
        assert done.code == 0, done.errors

    def get(self, path: str) -> bytes:
        done = self.run(["cat", path], limit=ANSWER_LIMIT)
        if done.code != 0:
            raise HostFailed(done.errors.decode(errors="replace"))
        return done.output

    def wait_ready(self, limit: float) -> None:
        try:
            kind, _ = self._frame(time.monotonic() + limit)
        except (TimeoutError, OSError, EOFError) as error:
            raise HostFailed(
                f"the KVM host did not come up ({error!r}): {console_end(self.directory)}"
            ) from error
        assert kind == READY, kind

    def _frame(self, until: float) -> tuple[bytes, bytes]:
        head = self._exactly(5, until)
        (length,) = struct.unpack(">I", head[1:])
        return head[:1], self._exactly(length, until)

    def _exactly(self, count: int, until: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._line.settimeout(left)
            part = self._line.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise EOFError("the VMM has ended")
            parts += part
        return bytes(parts)


class Monitor:
    """QEMU's monitor, without events: enough to stop, save, load and go on."""

    def __init__(self, line: socket.socket) -> None:
        self._file = line.makefile("rwb", buffering=0)
        line.settimeout(QMP_LIMIT)
        self._file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> object:
        self._file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise HostFailed(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise HostFailed(f"{command}: the VMM has ended")

    def migrate(self, command: str, path: Path) -> None:
        """Device state only: the memory is a file already."""
        capabilities = [{"capability": "x-ignore-shared", "state": True}]
        self.execute("migrate-set-capabilities", capabilities=capabilities)
        self.execute(command, uri=f"file:{path}")
        until = time.monotonic() + QMP_LIMIT
        while (status := self._status()) != "completed":
            if status == "failed" or time.monotonic() > until:
                raise HostFailed(f"{command}: {status}")
            time.sleep(0.01)

    def _status(self) -> object:
        answer = self.execute("query-migrate")
        assert isinstance(answer, dict)
        return answer.get("status")


def console_end(directory: Path) -> str:
    with contextlib.suppress(OSError):
        return (directory / "console.log").read_text(errors="replace")[-6000:]
    return "nothing"


@contextlib.contextmanager
def kvm_host() -> Iterator[KvmHost]:
    """A fresh host from the snapshot in the cache, which is made now if it is not there."""
    files = make()
    state = CACHE / f"{files.digest}-{_machine_digest(files)}"
    with locked(CACHE / "booting.lock"):
        if not state.is_dir():
            _make_state(files, state)
    os.utime(state)
    with tempfile.TemporaryDirectory(prefix="kvm-host-") as scratch:
        directory = Path(scratch)
        disk = directory / "disk.qcow2"
        _overlay(disk, state / "disk.qcow2", "qcow2")
        memory = f"mem-path={state}/memory,share=off,readonly=on,rom=off"
        with _started(directory, files, disk, memory, "-incoming", "defer") as (host, monitor):
            monitor.migrate("migrate-incoming", state / "device")
            monitor.execute("cont")
            yield host


def _machine_digest(files: HostFiles) -> str:
    """What the state of a machine depends on beside its files."""
    shown = subprocess.run([QEMU, "--version"], check=True, capture_output=True, text=True)
    model = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    text = f"{shown.stdout}{model}{files.builder.digest}{Path(__file__).read_text()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _make_state(files: HostFiles, state: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="booting-", dir=CACHE) as scratch:
        directory = Path(scratch)
        half = directory / "half"
        half.mkdir()
        disk = half / "disk.qcow2"
        _overlay(disk, files.disk, "raw")
        words = f"{KERNEL_WORDS} tsc_early_khz={measure_tsc_khz()}"
        boot = (
            "-kernel",
            os.fspath(files.kernel),
            "-initrd",
            os.fspath(files.initrd),
            "-append",
            words,
        )
        memory = f"mem-path={half}/memory,share=on"
        with _started(directory, files, disk, memory, *boot) as (host, monitor):
            monitor.execute("cont")
            host.wait_ready(BOOT_LIMIT)
            _warm(host)
            monitor.execute("stop")
            monitor.migrate("migrate", half / "device")
            monitor.execute("quit")
            host._process.wait(QMP_LIMIT)
        for name in STATE_NAMES:
            (half / name).chmod(0o444)
        half.rename(state)


def _warm(host: KvmHost) -> None:
    """See that it is what it should be, and read what every run of tests reads."""
    for argv in (["test", "-c", "/dev/kvm"], *WARMING):
        done = host.run(argv, limit=BOOT_LIMIT)
        if done.code != 0:
            said = done.errors.decode(errors="replace")
            raise HostFailed(f"{argv}: {said}: {console_end(host.directory)}")


def _overlay(path: Path, backing: Path, kind: str) -> None:
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", os.fspath(backing), "-F", kind]
    subprocess.run([*argv, os.fspath(path)], check=True)


@contextlib.contextmanager
def _started(
    directory: Path, files: HostFiles, disk: Path, memory: str, *contents: str
) -> Iterator[tuple[KvmHost, Monitor]]:
    """The VMM from its start to its end, with its vCPUs standing still."""
    with contextlib.ExitStack() as stack:
        ours, theirs = _pair(stack)
        line, its_line = _pair(stack)
        # fmt: off
        argv = [
            QEMU, "-name", "kvm-host", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-S", "-machine", MACHINE, "-accel", "tcg,thread=multi,tb-size=512",
            "-cpu", CPU, "-smp", "2", "-m", f"{MEMORY_MIB}M",
            "-object", f"memory-backend-file,id=memory,size={MEMORY_MIB}M,{memory},reserve=off",
            "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control",
            "-chardev", f"file,id=console,path={directory}/console.log",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=line,fd={its_line.fileno()}", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=line,name=kvm-host", "-device", "virtio-rng-pci",
            "-drive", f"if=none,id=root,file={disk},format=qcow2,cache=unsafe,discard=unmap",
            "-device", "virtio-blk-pci,drive=root",
            "-drive", f"if=none,id=builder,file={files.builder.erofs},format=raw,readonly=on",
            "-device", "virtio-blk-pci,drive=builder", *contents,
        ]
        # fmt: on
        log = stack.enter_context((directory / "vmm.log").open("wb"))
        process = subprocess.Popen(
            argv, pass_fds=(theirs.fileno(), its_line.fileno()), stdout=log, stderr=log
        )
        stack.callback(_end, process)
        theirs.close()
        its_line.close()
        try:
            yield KvmHost(directory, process, line), Monitor(ours)
        except OSError as error:
            said = (directory / "vmm.log").read_text(errors="replace")[-2000:]
            raise HostFailed(f"the VMM of the KVM host: {error!r}: {said}") from error


def _pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)
    return ours, theirs


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
