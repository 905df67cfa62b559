"""What attackers bring and what they must not touch: programs, archives, and a canary."""

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from microvmd.build import layers
from microvmd.build.archive import Archive, ArchiveLimits, inspect

CANARY_ACCOUNT = "999999999999"
SECRET = "another-account-alone-knows-this"
ACTS = (
    "mknod-disk",
    "mknod-memory",
    "mount-tmpfs",
    "mount-bind",
    "mount-proc",
    "sysrq",
    "core-pattern",
    "kernel-log",
    "kernel-memory",
    "new-namespace",
    "namespace-of-1",
    "file-by-handle",
    "host-name",
    "clock",
)
"""Of ``attack kernel``, in their order."""


@cache
def attack_program() -> bytes:
    """``attack.c``, static."""
    source = Path(__file__).with_name("attack.c")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "attack"
        argv = ["gcc", "-static", "-O1", "-Wall", "-s", "-o", f"{program}", f"{source}"]
        subprocess.run(argv, check=True, timeout=120)
        return program.read_bytes()


def attack_here(directory: Path) -> Path:
    """The attacker as a program of this machine."""
    program = directory / "attack"
    program.write_bytes(attack_program())
    program.chmod(0o755)
    return program


def zip_of(path: Path, files: Mapping[str, bytes]) -> Archive:
    """A checked code artifact; every file of it may be executed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return inspect(path, ArchiveLimits())


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    """(name, type, link target); a file holds its own name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, target, 0o666
            if kind in (tarfile.BLKTYPE, tarfile.CHRTYPE):
                member.devmajor, member.devminor = map(int, target.split(":"))
                member.linkname = ""
            member.size = len(name) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(name.encode()))
    return buffer.getvalue()


HOST = tuple(
    map(
        Path,
        (
            "/etc/passwd",
            "/etc/shadow",
            "/etc/sudoers",
            "/etc/crontab",
            "/etc/cron.d",
            "/etc/ld.so.preload",
            "/root/.bashrc",
            "/root/.ssh",
        ),
    )
)
"""What one who has left a build would write to first; most of it is on any machine."""


@dataclass(frozen=True)
class Canary:
    """A secret of the node, another account's layers, what builds only read, and HOST."""

    secret: Path
    watched: tuple[Path, ...]
    before: dict[str, str]

    @classmethod
    def make(cls, directory: Path, cache: Path, builder: Path) -> "Canary":
        root, account = directory / "root", CANARY_ACCOUNT
        (root / "images" / account / "app" / "1.0").mkdir(parents=True)
        (root / "images" / account / "app" / "1.0" / "rootfs.erofs").write_text(SECRET)
        secret = root / "keys" / "secret"
        secret.parent.mkdir()
        secret.write_text(SECRET)
        store = layers.place(cache, account, ["base"])
        layers.mark_used(store)
        (store / "store.ext4").write_text(SECRET)
        # Used after all others, so that it is no test's to go.
        os.utime(store, (4_000_000_000, 4_000_000_000))
        watched: tuple[Path, ...] = (root, store, cache / "bases" / "images")
        watched += HOST
        watched += tuple(
            builder / place for place in ("../root.erofs", "etc", "usr/bin", "usr/local")
        )
        return cls(secret, watched, _tree(watched))

    def check(self) -> None:
        """Nothing of it was changed, added or taken away."""
        after = _tree(self.watched)
        changed = {name for name in self.before | after if self.before.get(name) != after.get(name)}
        assert not changed, sorted(changed)[:20]


def _tree(places: tuple[Path, ...]) -> dict[str, str]:
    """What is at each path: content of small files, size and time of large ones, owner and mode."""
    found: dict[str, str] = {}
    for place in places:
        paths = [place.resolve()]
        for folder, folders, names in os.walk(paths[0]):
            paths += [Path(folder, name) for name in folders + names]
        for path in paths:
            if path.exists() or path.is_symlink():
                state = path.lstat()
                text = f"{state.st_mode:o} {state.st_uid} {state.st_size}"
                if stat.S_ISREG(state.st_mode):
                    text += f" {_digest(path) if state.st_size < 1 << 20 else state.st_mtime_ns}"
                if stat.S_ISDIR(state.st_mode):
                    text = f"{state.st_mode:o} {state.st_uid}"
                found[os.fspath(path)] = text
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
