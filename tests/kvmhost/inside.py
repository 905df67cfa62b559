"""Runs within the KVM host: takes one command after another from a virtio port, and tells of each.

A command is one line of JSON (`argv`, `env`, `cwd`, `time`, `input`: how many bytes follow for its
standard input). The answer is frames of one letter, a length (4 bytes, big-endian) and the bytes:
``o`` and ``e`` for what it prints, ``x`` for its exit code. Standard library only.
"""

import json
import os
import selectors
import struct
import subprocess
import threading
import time
from typing import IO, Any

PORT = "/dev/virtio-ports/kvm-host"
PORTS = "/sys/class/virtio-ports"
CHUNK = 1 << 16
READY = b"r"
OUTPUT, ERRORS, EXIT = b"o", b"e", b"x"
CANNOT_START = 127


def port() -> str:
    """The device of our port; nobody makes links here, as udev would."""
    for name in os.listdir(PORTS):
        with open(f"{PORTS}/{name}/name") as file:
            if file.read().strip() == os.path.basename(PORT):
                return f"/dev/{name}"
    raise SystemExit("there is no port for the host")


def write(fd: int, kind: bytes, data: bytes = b"") -> None:
    frame = memoryview(kind + struct.pack(">I", len(data)) + data)
    while frame:
        frame = frame[os.write(fd, frame) :]


def feed(target: IO[bytes], data: bytes) -> None:
    try:
        with target:
            target.write(data)
    except BrokenPipeError:
        pass


def relay(fd: int, process: "subprocess.Popen[bytes]") -> None:
    """Send on what it prints until it ends: what it left behind may hold its output open."""
    assert process.stdout is not None
    assert process.stderr is not None
    kinds = {process.stdout.fileno(): OUTPUT, process.stderr.fileno(): ERRORS}
    for each in kinds:
        os.set_blocking(each, False)
    ended = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector:
        for each in (ended, *kinds):
            selector.register(each, selectors.EVENT_READ)
        going = True
        while going:
            ready = {key.fd for key, _ in selector.select()}
            going = ended not in ready
            for each in ready & set(kinds) if going else kinds:
                while chunk := available(each):
                    write(fd, kinds[each], chunk)
                if going and chunk == b"":
                    selector.unregister(each)
    os.close(ended)


def available(fd: int) -> bytes | None:
    """What can be read now: nothing yet (None), or never again (empty)."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None


def run(fd: int, command: dict[str, Any], data: bytes) -> None:
    time.clock_settime(time.CLOCK_REALTIME, command["time"])
    try:
        process = subprocess.Popen(
            command["argv"],
            env={**os.environ, **command["env"]},
            cwd=command["cwd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        write(fd, ERRORS, f"{error}\n".encode())
        write(fd, EXIT, str(CANNOT_START).encode())
        return
    assert process.stdin is not None
    feeder = threading.Thread(target=feed, args=(process.stdin, data), daemon=True)
    feeder.start()
    relay(fd, process)
    write(fd, EXIT, str(process.wait()).encode())


def exactly(fd: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(fd, min(count, CHUNK))
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def main() -> None:
    fd = os.open(port(), os.O_RDWR | os.O_CLOEXEC)
    write(fd, READY)
    while True:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += os.read(fd, 1)
        command = json.loads(line)
        run(fd, command, exactly(fd, command["input"]))


if __name__ == "__main__":
    main()
