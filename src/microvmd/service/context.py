"""A directory as the zip that CreateMicrovmImage takes: what ``.dockerignore`` leaves, in order.

The same content gives the same bytes whatever the machine and the day, so that the object's name
can be its hash and an unchanged upload is seen as such. Links are stored as what they point to:
the service refuses links in an archive.
"""

import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DOCKERFILE = "Dockerfile"
IGNORE_FILE = ".dockerignore"
# The first moment that a zip can name.
EPOCH = (1980, 1, 1, 0, 0, 0)


class ContextError(Exception):
    """The directory cannot be sent as it is; the message says which file and why."""


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """Rules of a ``.dockerignore``: the last one that matches a path or a parent of it decides."""

    rules: tuple[tuple[re.Pattern[str], bool], ...] = ()

    @classmethod
    def parse(cls, lines: Iterable[str]) -> "IgnoreRules":
        rules = []
        for line in lines:
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            keeps = pattern.startswith("!")
            parts = [
                part for part in pattern.lstrip("!").strip().split("/") if part not in ("", ".")
            ]
            if parts:
                rules.append((re.compile(_expression(parts)), keeps))
        return cls(tuple(rules))

    def ignores(self, path: str) -> bool:
        """``path`` is relative, with ``/``. What the build itself needs is never left out."""
        if path in (DOCKERFILE, IGNORE_FILE):
            return False
        segments = path.split("/")
        parents = ["/".join(segments[:count]) for count in range(1, len(segments) + 1)]
        ignored = False
        for pattern, keeps in self.rules:
            if any(pattern.fullmatch(parent) for parent in parents):
                ignored = not keeps
        return ignored

    @property
    def has_exceptions(self) -> bool:
        """Whether something inside an ignored directory may be kept after all."""
        return any(keeps for _, keeps in self.rules)


def _expression(parts: list[str]) -> str:
    pieces = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            pieces.append(".*" if last else "(?:.*/)?")
        else:
            pieces.append(_segment(part) + ("" if last else "/"))
    return "".join(pieces)


def _segment(part: str) -> str:
    """One segment of a pattern, in the syntax of Go's filepath.Match, which Docker uses."""
    out = []
    index = 0
    while index < len(part):
        char = part[index]
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\" and index + 1 < len(part):
            index += 1
            out.append(re.escape(part[index]))
        elif char == "[" and (end := part.find("]", index + 2)) > 0:
            inside = part[index + 1 : end]
            negated = inside[0] in "^!"
            body = inside[1:] if negated else inside
            out.append(f"[{'^/' if negated else ''}{_class_body(body)}]")
            index = end
        else:
            out.append(re.escape(char))
        index += 1
    return "".join(out)


def _class_body(body: str) -> str:
    ranges = re.findall(r"([^-])-([^-])|(.)", body, re.DOTALL)
    return "".join(
        f"{re.escape(low)}-{re.escape(high)}"
        if low and low <= high
        else re.escape(low + high + one)
        for low, high, one in ranges
    )


def write_zip(directory: Path, out: IO[bytes]) -> int:
    """Write the context's zip and give the number of files. Raises ContextError."""
    if not (directory / DOCKERFILE).is_file():
        raise ContextError(f"{directory} has no {DOCKERFILE}: an image is built from one")
    ignore = directory / IGNORE_FILE
    rules = IgnoreRules.parse(ignore.read_text().splitlines() if ignore.is_file() else ())
    count = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files(directory, rules):
            _add(archive, directory, path)
            count += 1
    return count


def files(directory: Path, rules: IgnoreRules) -> Iterator[Path]:
    """The files and empty directories to send, sorted by name. Directory links are refused."""
    yield from _walk(directory, directory, rules)


def _walk(root: Path, directory: Path, rules: IgnoreRules) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        name = path.relative_to(root).as_posix()
        ignored = rules.ignores(name)
        if path.is_dir() and not path.is_symlink():
            if ignored and not rules.has_exceptions:
                continue
            inside = list(_walk(root, path, rules))
            if inside:
                yield from inside
            elif not ignored:
                yield path
        elif not ignored:
            yield path


def _add(archive: zipfile.ZipFile, root: Path, path: Path) -> None:
    name = path.relative_to(root).as_posix()
    real = _target(root, path)
    mode = real.stat().st_mode
    if stat.S_ISDIR(mode):
        entry = zipfile.ZipInfo(f"{name}/", EPOCH)
        entry.external_attr = (stat.S_IFDIR | stat.S_IMODE(mode)) << 16
        archive.writestr(entry, b"")
        return
    if not stat.S_ISREG(mode):
        raise ContextError(f"{name} is neither a file nor a directory: name it in {IGNORE_FILE}")
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | stat.S_IMODE(mode)) << 16
    entry.file_size = real.stat().st_size
    with real.open("rb") as source, archive.open(entry, "w") as copy:
        while piece := source.read(1 << 20):
            copy.write(piece)


def _target(root: Path, path: Path) -> Path:
    if not path.is_symlink():
        return path
    name = path.relative_to(root).as_posix()
    real = path.resolve()
    if not real.exists():
        raise ContextError(f"{name} is a link to nothing: mend it or name it in {IGNORE_FILE}")
    if not real.is_relative_to(root.resolve()):
        raise ContextError(f"{name} links to {real}, outside of {root}: copy the file instead")
    if real.is_dir():
        raise ContextError(f"{name} is a link to a directory: archives hold no links, copy it")
    return real
