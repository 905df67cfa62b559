"""What the service's user gets, what root does not do for it, and how root is given up."""

import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from microvmd.service.failure import Failure
from microvmd.service.user import ServiceUser, acting_as, needs_low_port, prepare
from microvmd.settings.settings import Settings

NOBODY = ServiceUser("nobody", 65534, 65534)
GIVE_UP = """
import json, os, sys
from microvmd.service.user import ServiceUser, give_up_root
give_up_root(ServiceUser("nobody", 65534, 65534), low_port=sys.argv[1] == "low")
def tried(work):
    try:
        work()
    except OSError:
        return False
    return True
import socket
status = open("/proc/self/status").read().splitlines()
found = dict(line.split(":", 1) for line in status if ":" in line)
print(json.dumps({
    **{name: found[name].split() for name in ("Uid", "Gid", "Groups")},
    **{name: found[name].split() for name in ("CapEff", "CapBnd", "CapAmb")},
    "NoNewPrivs": found["NoNewPrivs"].strip(),
    "root again": tried(lambda: os.setuid(0)),
    "shadow": tried(lambda: open("/etc/shadow").read()),
    "low port": tried(lambda: socket.socket().bind(("127.0.0.9", 81))),
    "child": os.popen("grep CapEff /proc/self/status").read().split()[1],
}))
"""


@pytest.fixture
def settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o711)
        yield Settings(root=place / "root", run=place / "run", cache=place / "cache")


def _owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


@pytest.mark.root
def test_each_directory_is_its_owners(settings: Settings) -> None:
    prepare(settings, NOBODY)
    assert _owner(settings.root) == (0, 0o1775)
    assert settings.root.stat().st_gid == NOBODY.gid
    for name in ("images", "microvms", "logs", "delivery", "tmp"):
        assert _owner(settings.root / name) == (0, 0o700)
    assert _owner(settings.run) == (0, 0o755)
    assert {_owner(settings.run / name)[0] for name in ("edge", "aws")} == {NOBODY.uid}
    with acting_as(NOBODY):
        (settings.root / "state.db").write_text("made by the user")
        for name in ("images", "microvms"):
            with pytest.raises(PermissionError):
                (settings.root / name).rename(settings.root / "moved")
            with pytest.raises(PermissionError):
                os.listdir(settings.root / name)
        with pytest.raises(PermissionError):
            (settings.run / "node.sock").write_text("")
    assert _owner(settings.root / "state.db")[0] == NOBODY.uid
    prepare(settings, NOBODY)


@pytest.mark.root
def test_what_an_older_service_made_is_handed_over_once(settings: Settings) -> None:
    keys = settings.root / "keys"
    (keys / "tokens").mkdir(parents=True)
    (keys / "master.key").write_text("secret")
    (settings.root / "state.db").write_text("record")
    victim = settings.root.parent / "victim"
    victim.write_text("root's")
    (keys / "link").symlink_to(victim)
    prepare(settings, NOBODY)
    for path in (keys, keys / "tokens", keys / "master.key", settings.root / "state.db"):
        assert _owner(path)[0] == NOBODY.uid, path
    assert _owner(victim)[0] == 0, "links are not followed"
    # What the user put there later is looked at no more.
    os.link(victim, keys / "again")
    prepare(settings, NOBODY)
    assert _owner(victim)[0] == 0


@pytest.mark.root
def test_root_hands_over_no_file_of_another_name(settings: Settings) -> None:
    prepare(settings, NOBODY)
    victim = settings.root.parent / "victim"
    victim.write_text("root's")
    os.link(victim, settings.root / "state.db")
    with pytest.raises(Failure, match="a second name"):
        prepare(settings, NOBODY)
    (settings.root / "state.db").unlink()
    (settings.root / "state.db").symlink_to(victim)
    with pytest.raises(Failure, match="is a link"):
        prepare(settings, NOBODY)
    assert _owner(victim)[0] == 0


@pytest.mark.root
def test_a_place_that_the_user_cannot_reach(settings: Settings) -> None:
    settings.root.parent.chmod(0o700)
    with pytest.raises(Failure, match="cannot read") as failed:
        prepare(settings, NOBODY)
    assert "chmod o+x" in failed.value.hint


@pytest.mark.root
@pytest.mark.parametrize("low", [True, False])
def test_root_is_given_up_for_good(low: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        argv = [sys.executable, "-c", GIVE_UP, "low" if low else "high"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    bind = f"{1 << 10 if low else 0:016x}"
    assert found["Uid"] == found["Gid"] == ["65534"] * 4
    assert found["Groups"] == []
    assert [found[name] for name in ("CapEff", "CapBnd", "CapAmb")] == [[bind]] * 3
    assert found["NoNewPrivs"] == "1"
    assert not found["root again"]
    assert not found["shadow"]
    assert found["child"] == bind
    assert found["low port"] is low


@pytest.mark.root
def test_the_user_of_the_settings(settings: Settings) -> None:
    named = settings.model_copy(
        update={"service": settings.service.model_copy(update={"user": "nobody"})}
    )
    assert ServiceUser.of_settings(named).uid == pwd.getpwnam("nobody").pw_uid
    root = settings.model_copy(
        update={"service": settings.service.model_copy(update={"user": "root"})}
    )
    assert ServiceUser.of_settings(root).is_root
    assert ServiceUser.find("no-such-user") is None


def test_ports_below_1024_need_a_right(settings: Settings) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    assert needs_low_port(settings) is (first > 443), "auto may become 443"
    high = settings.model_copy(update={"edge": settings.edge.model_copy(update={"port": 8443})})
    assert needs_low_port(high) is (first > 8443)
