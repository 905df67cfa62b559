"""The user that ``microvmd serve`` becomes, what it gets, and how root is given up for good.

The node keeps root; the API, the control plane, the edge and the local AWS server do not have it.
Of the root directory the user has the record, the keys and the certificates; the directory is
sticky, so it can neither move nor remove what is the node's.
"""

import asyncio
import ctypes
import os
import pwd
import shlex
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

import microvmd
from microvmd.node.paths import NodePaths
from microvmd.service.failure import Failure
from microvmd.settings.settings import HTTPS, Settings
from microvmd.vmm.process import ProcessFailed, run

log = structlog.get_logger(__name__)

ROOT = 0
# fmt: off
ADD_USER = (
    "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
    "--shell", "/usr/sbin/nologin",
)
# fmt: on
ADD_LIMIT_S = 30.0
# include/uapi/linux/prctl.h, capability.h
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_NET_BIND_SERVICE = 10
LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")
FIRST_OPEN_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
CAPABILITY_VERSION = 0x20080522


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """An account of this machine."""

    name: str
    uid: int
    gid: int

    @classmethod
    def find(cls, name: str) -> "ServiceUser | None":
        """None: there is no such account."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @classmethod
    def of_settings(cls, settings: Settings) -> "ServiceUser":
        """Who we are already without root, else the user of the settings. Raise Failure."""
        if os.geteuid() != ROOT:
            entry = pwd.getpwuid(os.geteuid())
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        return cls.find(settings.service.user) or cls._made(settings.service.user)

    @classmethod
    def _made(cls, name: str) -> "ServiceUser":
        """As scripts/setup.sh makes it."""
        argv = [*ADD_USER, name]
        try:
            asyncio.run(run(argv, timeout=ADD_LIMIT_S))
        except (ProcessFailed, OSError) as error:
            raise Failure(
                f"there is no user {name} to run the service as, and none could be made: {error}",
                f"make it: {shlex.join(argv)}",
            ) from error
        found = cls.find(name)
        if found is None:
            raise Failure(f"useradd made no user {name}", f"make it: {shlex.join(argv)}")
        log.info("serve.user_made", name=name, uid=found.uid)
        return found

    @property
    def is_root(self) -> bool:
        return self.uid == ROOT


@contextmanager
def acting_as(user: ServiceUser) -> Iterator[None]:
    """Files are opened and made with the user's rights, and are the user's.

    Whoever has taken the service over could put links in root's way otherwise.
    """
    if os.geteuid() != ROOT or user.is_root:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(ROOT)
        os.setgroups(groups)


def prepare(settings: Settings, user: ServiceUser) -> None:
    """Make every directory of node and service, each for its owner. Needs root."""
    settings.root.mkdir(parents=True, exist_ok=True)
    settings.cache.mkdir(parents=True, exist_ok=True)
    settings.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.chown(settings.root, ROOT, user.gid)
    settings.root.chmod(0o755 if user.is_root else 0o1775)
    NodePaths(settings.root).make()
    for path in (settings.run / "edge", settings.run / "aws"):
        path.mkdir(mode=0o755, exist_ok=True)
        _give(path, user)
    record = ("state.db", "state.db-wal", "state.db-shm")
    for name in ("audit", "keys", "ca", "lock", "local-aws.log", *record):
        _give(settings.root / name, user)
    check_reach(settings, user)


def _give(path: Path, user: ServiceUser) -> None:
    """What another user of the service had made becomes the user's, once.

    Nothing is touched below a directory that somebody but root owned: that one may have put links
    to files of others there.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Failure(f"{path} is a link or cannot be opened", "put the real file there") from error
    try:
        found = os.fstat(fd)
        if found.st_uid == user.uid:
            return
        directory = stat.S_ISDIR(found.st_mode)
        if found.st_uid != ROOT or not (directory or stat.S_ISREG(found.st_mode)):
            raise Failure(
                f"{path} belongs to user {found.st_uid}, and the service runs as {user.name}",
                f"chown -R {user.name} {path}, after a look at what is in it",
            )
        if not directory and found.st_nlink > 1:
            raise Failure(f"{path} has a second name", "put a file of its own there")
        if directory:
            for name in sorted(os.listdir(fd)):
                entry = path / name
                if stat.S_ISREG(entry.lstat().st_mode) or stat.S_ISDIR(entry.lstat().st_mode):
                    _give(entry, user)
        os.fchown(fd, user.uid, user.gid)
    finally:
        os.close(fd)


CODE = (Path(microvmd.__file__).parents[1], Path(sys.prefix))
"""What the service goes on reading; ``reach.py`` leads there where a directory above is closed."""


def check_reach(settings: Settings, user: ServiceUser) -> None:
    """Raise Failure where the service could not read what it needs once it has given root up."""
    made = [path for path in (settings.root, settings.run) if path.exists()]
    with acting_as(user):
        for path in made:
            if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
                raise Failure(
                    f"the user {user.name}, as which the service runs, cannot read {path}",
                    "choose a directory where everybody may go, or let others through "
                    "(chmod o+x on what is above it)",
                )
    for path in CODE:
        if not user.is_root and not path.stat().st_mode & 0o005 == 0o005:
            raise Failure(
                f"the user {user.name}, as which the service runs, cannot read {path}",
                "let others read what is in it: chmod -R go+rX",
            )


def needs_low_port(settings: Settings) -> bool:
    """Whether the API or HAProxy is to listen where the kernel lets only the privileged."""
    first = int(FIRST_OPEN_PORT.read_text())
    edge = HTTPS if settings.edge.port == "auto" else int(settings.edge.port)
    return min(settings.api.port, edge) < first


def give_up_root(user: ServiceUser, *, low_port: bool) -> None:
    """For good: no way leads back, not by a program that is started either.

    ``low_port`` keeps the right to listen below 1024, for HAProxy too. The thread that calls this
    must be the only one.
    """
    if user.is_root:
        log.warning("serve.keeps_root", mend="set service.user to an account of its own")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    kept = [CAP_NET_BIND_SERVICE] if low_port else []
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    for number in range(int(LAST_CAPABILITY.read_text()) + 1):
        if number not in kept:
            _prctl(libc, PR_CAPBSET_DROP, number)
    _prctl(libc, PR_SET_KEEPCAPS, int(low_port))
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    _set_capabilities(libc, kept)
    _prctl(libc, PR_SET_KEEPCAPS, 0)
    for number in kept:
        _prctl(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
    # Of root's: a home that the user cannot read.
    os.environ["HOME"] = "/nonexistent"


def _prctl(libc: ctypes.CDLL, option: int, *arguments: int) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    if libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _set_capabilities(libc: ctypes.CDLL, kept: Sequence[int]) -> None:
    mask = sum(1 << number for number in kept)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # effective, permitted, inheritable of the lower 32, then of the upper
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
