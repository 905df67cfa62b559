"""Who has taken the service over, but not the node: what its user id reaches, and what it does not.

Each attack is made by a process of its own with that user id, and first by one of root, to whom it
must succeed: else it shows nothing.
"""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from microvmd.messages import node_wire
from microvmd.messages.node_requests import AskVmm, OpenControl, Refused
from microvmd.messages.node_wire import FROM_NODE, HEADER_SIZE, TO_NODE, Header, WireError
from microvmd.node.paths import NodePaths
from microvmd.service.keeper import SOCKET
from microvmd.service.serve import NICER
from microvmd.service.user import ServiceUser
from tests.faults.conftest import DOCKERFILE
from tests.faults.conftest import server as server
from tests.nodemessages import SAMPLES, spoiled
from tests.servicelab import Microvm, Service, running_service

pytestmark = [pytest.mark.vm, pytest.mark.security]

ROOT = 0
NOBODY = 65534
HOSTILE = 10_000
TRAVERSAL = b'["AskVmm",{"microvm_id":"../../../../../../etc/passwd"}]'
LIMIT = 280
PYTHON = os.path.realpath(sys.executable)
"""The interpreter itself: the checkout may lie where the service's user cannot go."""
PROBE = """
import ctypes, json, os, sys
CLONE_NEWNET = 0x40000000
place = json.loads(sys.argv[1])
def tried(work):
    try:
        work()
    except OSError as error:
        return error.strerror
    return "done"
def enter(path):
    fd = os.open(path, os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def connect():
    import socket
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(30)
        made.connect(place["socket"])
        made.sendall(bytes.fromhex(place["hello"]))
        if not made.recv(1):
            raise OSError(0, "hung up on")
print(json.dumps({
    "list images": tried(lambda: os.listdir(place["images"])),
    "read memory": tried(lambda: open(place["memory"], "rb").read(1)),
    "write memory": tried(lambda: open(place["memory"], "r+b").close()),
    "move images": tried(lambda: (os.rename(place["images"], place["images"] + "2"),
                                  os.rename(place["images"] + "2", place["images"]))),
    "list MicroVMs": tried(lambda: os.listdir(place["microvms"])),
    "read logs": tried(lambda: os.listdir(place["logs"])),
    "VMM's memory": tried(lambda: open(f"/proc/{place['vmm']}/mem", "rb").close()),
    "signal a VMM": tried(lambda: os.kill(place["vmm"], 0)),
    "signal the node": tried(lambda: os.kill(place["node"], 0)),
    "enter a network": tried(lambda: enter(place["netns"])),
    "connect": tried(connect),
}))
"""
FLOOD = """
import pickle, socket, sys
path, frames = pickle.load(sys.stdin.buffer)
for number, frame in enumerate(frames):
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(60)
        made.connect(path)
        try:
            made.sendall(frame)
            made.shutdown(socket.SHUT_WR)
            while made.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
print("done")
"""


@pytest.fixture(scope="module")
def attacked(residents: list[object]) -> Iterator[Service]:
    with running_service() as service:
        residents.append(service)
        yield service
        residents.remove(service)


@pytest.fixture(scope="module")
def user() -> ServiceUser:
    found = ServiceUser.find("microvmd")
    assert found is not None, "the service has made it"
    return found


@pytest.fixture
def running(attacked: Service, server: bytes) -> Iterator[Microvm]:
    image = attacked.image("victim", {"Dockerfile": DOCKERFILE, "server": server})
    yield attacked.run(image)
    attacked.terminate_all()
    attacked.check_strays()


def _status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def _probe(service: Service, microvm: Microvm, uid: int, gid: int, *groups: int) -> dict[str, str]:
    memory = next((service.root / "images").glob("*/*/*/memory"))
    place = {
        "images": str(service.root / "images"),
        "microvms": str(service.root / "microvms"),
        "logs": str(service.root / "logs"),
        "memory": str(memory),
        "vmm": microvm.vmm,
        "node": service.node_pid,
        "netns": str(next((service.place.run / "netns").iterdir())),
        "socket": str(service.place.run / SOCKET),
        "hello": TO_NODE.encode(OpenControl()).hex(),
    }
    argv = [PYTHON, "-c", PROBE, json.dumps(place)]
    done = subprocess.run(
        argv, user=uid, group=gid, extra_groups=groups, capture_output=True, timeout=120, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_service_has_no_rights(attacked: Service, user: ServiceUser) -> None:
    assert attacked.process is not None
    for pid in (attacked.process.pid, *attacked.haproxy(), *attacked.local_aws()):
        status = _status(pid)
        assert status["Uid"] == [str(user.uid)] * 4
        assert status["Gid"] == [str(user.gid)] * 4
        assert status["Groups"] == []
        assert status["NoNewPrivs"] == ["1"]
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            assert int(status[name][0], 16) == 0, name
    assert all(_status(pid)["Uid"] == ["0"] * 4 for pid in attacked.node())


def test_the_edge_goes_before_guests(attacked: Service, running: Microvm) -> None:
    def nice(pid: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, pid)

    assert attacked.process is not None
    assert running.vmm is not None
    first = {nice(pid) for pid in (attacked.process.pid, *attacked.haproxy())}
    assert first == {nice(os.getpid()) - NICER}
    assert {nice(attacked.node_pid), nice(running.vmm)} == {nice(os.getpid())}


def test_what_is_the_nodes_is_out_of_reach(
    attacked: Service, running: Microvm, user: ServiceUser
) -> None:
    as_root = _probe(attacked, running, ROOT, ROOT)
    assert set(as_root.values()) == {"done"}, as_root
    found = _probe(attacked, running, user.uid, user.gid)
    assert found.pop("connect") == "done", "that is its door"
    assert set(found.values()) <= {"Permission denied", "Operation not permitted"}, found
    assert running.text().startswith("request ")


def test_nobody_else_comes_in(attacked: Service, running: Microvm, user: ServiceUser) -> None:
    assert _probe(attacked, running, NOBODY, NOBODY)["connect"] == "Permission denied"
    # Also not with the group that the file's mode lets in.
    found = _probe(attacked, running, NOBODY, NOBODY, user.gid)["connect"]
    assert found in ("hung up on", "Connection reset by peer", "Broken pipe")


def test_a_second_hand_does_not_get_the_node(attacked: Service, user: ServiceUser) -> None:
    """HAProxy and the local AWS server have the service's user id too."""
    assert user.uid != ROOT
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(60)
        made.connect(str(attacked.place.run / SOCKET))
        made.sendall(TO_NODE.encode(OpenControl()))
        head = made.recv(HEADER_SIZE, socket.MSG_WAITALL)
        payload = made.recv(Header.parse(head).length, socket.MSG_WAITALL)
        assert FROM_NODE.decode(payload) == Refused("another service commands this node")
        assert made.recv(1) == b""


def _hostile(rng: random.Random) -> bytes:
    """A frame that breaks some rule, or what a dying sender leaves of one."""
    frame = TO_NODE.encode(rng.choice(SAMPLES))
    head, payload = frame[:HEADER_SIZE], frame[HEADER_SIZE:]
    bad = spoiled(payload, rng)
    whole = head[:4] + len(bad).to_bytes(4, "big") + bad
    return bytes(
        rng.choice(
            [
                whole,
                whole[: rng.randrange(len(whole))],
                head[:4] + b"\xff\xff\xff\xff" + payload,
                head[:3] + b"\x07" + head[4:] + payload,
                rng.randbytes(rng.randrange(1, 200)),
                frame,  # no connection begins with a command
                head[:4] + len(TRAVERSAL).to_bytes(4, "big") + TRAVERSAL,
            ]
        )
    )


def test_without_a_rule_a_name_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A type alone lets it through: of the paths of a MicroVM it would make those of a system."""
    with pytest.raises(WireError):
        TO_NODE.decode(TRAVERSAL)
    monkeypatch.setattr(node_wire, "_check", lambda _: None)
    asked = TO_NODE.decode(TRAVERSAL)
    assert isinstance(asked, AskVmm)
    root = NodePaths(tmp_path)
    assert not root.microvm(asked.microvm_id).directory.resolve().is_relative_to(tmp_path)


def test_hostile_messages_are_refused_and_the_node_lives(
    attacked: Service, running: Microvm, user: ServiceUser
) -> None:
    import pickle

    rng = random.Random("split")
    before = attacked.node_pid
    frames = [_hostile(rng) for _ in range(HOSTILE)]
    done = subprocess.run(
        [PYTHON, "-c", FLOOD],
        input=pickle.dumps((str(attacked.place.run / SOCKET), frames)),
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        capture_output=True,
        timeout=LIMIT,
        check=True,
    )
    assert done.stdout == b"done\n"
    assert attacked.node_pid == before
    assert running.text().startswith("request ")
    running.suspend()
    assert running.text().startswith("request ")
