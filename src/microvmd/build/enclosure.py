"""Runs a command inside the builder's root, in namespaces of its own.

This is the isolation of ``build.isolation=namespace``: defence in depth for Dockerfiles that the
operator trusts, not a wall against hostile ones (a shared kernel and a real root uid remain).

The host side makes an :class:`Enclosure` and runs its :meth:`Enclosure.argv`; this same module,
run as a program, then enters the namespaces and becomes the command. All of it dies with the
process that began the build, even if that is killed: the program gets SIGKILL when its parent ends,
and the command, process 1 of the pid namespace, when the program does. So no mount and no process
can outlive a build.
"""

import ctypes
import json
import os
import signal
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

_CLONE = {
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "pid": 0x20000000,
}
_CLONE_NEWNET = 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_RECURSIVE, _PRIVATE = 1 << 14, 1 << 18
_DETACH = 2
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
# Modules, raw I/O, reboot, clock, kernel log, wake alarms, LSM policy: no build needs them.
_DROPPED_CAPABILITIES = (16, 17, 22, 25, 32, 33, 34, 35)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Bind:
    """A host file or folder seen at ``target``, an existing place in the builder's root."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Enclosure:
    """What the command sees. ``network`` is a name below /run/netns, or None for the host's own.

    ``groups`` are the cgroup.procs files of the control groups to join.
    """

    root: str
    binds: tuple[Bind, ...]
    resolv_conf: str
    network: str | None = None
    groups: tuple[str, ...] = ()

    def argv(self, command: list[str]) -> list[str]:
        """Return the command line that runs ``command`` enclosed, as a child of this process."""
        job = json.dumps({"enclosure": asdict(self), "command": command, "parent": os.getpid()})
        return [sys.executable, "-I", "-m", "microvmd.build.enclosure", job]


def main() -> NoReturn:
    """Enter and become the command; the parent exits with its exit code."""
    job = json.loads(sys.argv[1])
    _check("prctl", _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != job["parent"]:
        sys.exit("whoever began the build is gone")
    binds = tuple(Bind(**bind) for bind in job["enclosure"].pop("binds"))
    enclosure = Enclosure(binds=binds, **job["enclosure"])
    for procs in enclosure.groups:
        # Before the cgroup namespace is made, whose root is then this group.
        Path(procs).write_text("0")
    if enclosure.network is not None:
        with Path("/run/netns", enclosure.network).open("rb") as namespace:
            _check("setns", _LIBC.setns(namespace.fileno(), _CLONE_NEWNET))
    _check("unshare", _LIBC.unshare(sum(_CLONE.values())))
    alive, parent_end = os.pipe()
    child = os.fork()
    if child:
        os.close(alive)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    os.close(parent_end)
    _die_with_parent(alive)
    _enter(enclosure)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    environment |= {"LC_ALL": "C.UTF-8", "TMPDIR": "/tmp"}  # noqa: S108 - a tmpfs of its own
    os.execve(job["command"][0], job["command"], environment)  # noqa: S606


def _die_with_parent(alive: int) -> None:
    _check("prctl", _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    # The parent may have died before the call above: then its end of the pipe is closed.
    os.set_blocking(alive, False)
    try:
        gone = os.read(alive, 1) == b""
    except BlockingIOError:
        gone = False
    os.close(alive)
    if gone:
        os.kill(os.getpid(), signal.SIGKILL)


def _enter(enclosure: Enclosure) -> None:
    root = enclosure.root
    os.umask(0)
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    _mount(root, root, None, _BIND | _RECURSIVE)
    _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _mount("sysfs", f"{root}/sys", "sysfs", _NOSUID | _NODEV | _NOEXEC | _RDONLY)
    # crun accepts a pure cgroup2 tree only, and the host's may be hybrid.
    _mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2", _NOSUID | _NODEV | _NOEXEC)
    # buildah cannot resolve a short name without its lock file below /var/cache.
    for place in ("run", "tmp", "var/tmp", "var/cache"):
        _mount("tmpfs", f"{root}/{place}", "tmpfs", _NOSUID | _NODEV)
    Path(root, "run/resolv.conf").write_text(enclosure.resolv_conf)
    _make_devices(f"{root}/dev")
    for bind in enclosure.binds:
        _bind(bind, root + bind.target)
    _mount(None, root, None, _BIND | _REMOUNT | _RDONLY)
    os.chdir(root)
    # Old and new root at one place: the old one is then the top mount and is taken off.
    _check("pivot_root", _LIBC.pivot_root(b".", b"."))
    _check("umount", _LIBC.umount2(b".", _DETACH))
    os.chdir("/")
    os.umask(0o022)
    _check("sethostname", _LIBC.sethostname(b"build", 5))
    for capability in _DROPPED_CAPABILITIES:
        _check("prctl", _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))


def _bind(bind: Bind, target: str) -> None:
    _mount(bind.source, target, None, _BIND)
    if not bind.writable:
        _mount(None, target, None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)


def _make_devices(place: str) -> None:
    _mount("tmpfs", place, "tmpfs", _NOSUID, "mode=0755")
    for name in _DEVICES:
        device = os.stat(f"/dev/{name}").st_rdev
        os.mknod(f"{place}/{name}", stat.S_IFCHR | 0o666, device)
    for name in ("pts", "shm"):
        os.mkdir(f"{place}/{name}")
    _mount("devpts", f"{place}/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666")
    _mount("tmpfs", f"{place}/shm", "tmpfs", _NOSUID | _NODEV)
    os.symlink("pts/ptmx", f"{place}/ptmx")
    for name, source in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{source}", f"{place}/{name}")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    arguments = [None if value is None else value.encode() for value in (source, target, kind)]
    options = None if data is None else data.encode()
    _check(f"mount {target}", _LIBC.mount(*arguments, ctypes.c_ulong(flags), options))


def _check(action: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{action}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
