"""Makes Debian root file systems with mmdebstrap from the mirror that this machine itself uses.

Nothing here names a mirror: URI and keyring are read from the machine's own apt sources, so a
site with a local mirror, or none but one proxy, needs no setting.
"""

import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from microvmd.build.lines import LineLog
from microvmd.vmm.process import ProcessFailed, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Any fixed moment will do; equal moments make equal files equal bytes.
EPOCH = 1_700_000_000
_ONE_LINE = re.compile(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)")
_POCKETS = ("", "-updates", "-security")
_TIMEOUT = 1800.0


class DebianUnavailable(Exception):
    """This machine cannot make a Debian root; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """One apt source of this machine for its own release. ``pocket`` is '', -updates, -security."""

    uri: str
    pocket: str
    keyring: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into a root. ``hooks`` are mmdebstrap customize hooks ("$1" is the root)."""

    suite: str
    variant: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...] = ()
    excluded_paths: tuple[str, ...] = ()


def host_mirrors(etc: Path = Path("/etc")) -> list[Mirror]:
    """Read the machine's apt sources. Raises DebianUnavailable when it is not a Debian."""
    release = dict(_assignments(etc / "os-release"))
    codename = release.get("VERSION_CODENAME")
    if release.get("ID") != "debian" or not codename:
        raise DebianUnavailable(
            "This machine is not a Debian with apt sources of its own release; "
            "add base images with 'microvmd base add' instead."
        )
    found: dict[str, Mirror] = {}
    for uri, suite, keyring in _sources(etc / "apt"):
        pocket = suite.removeprefix(codename)
        if suite.startswith(codename) and pocket in _POCKETS:
            found.setdefault(pocket, Mirror(uri, pocket, keyring or KEYRING))
    if "" not in found:
        raise DebianUnavailable(f"No apt source of this machine offers {codename}.")
    return [found[pocket] for pocket in _POCKETS if pocket in found]


def sources_for(suite: str, mirrors: Sequence[Mirror], keyring: str | None = None) -> str:
    """Write an apt sources file for ``suite`` at the same mirrors."""
    paragraphs = (
        f"Types: deb\nURIs: {mirror.uri}\nSuites: {suite}{mirror.pocket}\nComponents: main\n"
        f"Signed-By: {keyring or mirror.keyring}\n"
        for mirror in mirrors
    )
    return "\n".join(paragraphs)


async def make_root(recipe: Recipe, target: Path, log: Callable[[str], None]) -> None:
    """Make ``target``: a tarball if it ends in .tar, else a folder. Raises DebianUnavailable."""
    mirrors = host_mirrors()
    with tempfile.TemporaryDirectory(prefix="debian-", dir=target.parent) as folder:
        scratch = Path(folder)
        (scratch / "build.sources").write_text(sources_for(recipe.suite, mirrors))
        (scratch / "image.sources").write_text(sources_for(recipe.suite, mirrors, KEYRING))
        (scratch / "hostname").write_text("localhost\n")
        (scratch / "resolv.conf").write_text("")
        lines = LineLog(lambda line: log(f"debootstrap: {line}"))
        try:
            await run(
                _argv(recipe, target, scratch),
                timeout=_TIMEOUT,
                env=_environment(folder),
                listener=lines.feed,
            )
        except ProcessFailed as error:
            raise DebianUnavailable(
                f"mmdebstrap could not make a {recipe.suite} root: {error.output[-600:].strip()}"
            ) from error
        except FileNotFoundError as error:
            raise DebianUnavailable(
                "mmdebstrap is not installed: apt install mmdebstrap"
            ) from error
        finally:
            lines.close()


def _argv(recipe: Recipe, target: Path, scratch: Path) -> list[str]:
    argv = ["mmdebstrap", "--mode=root", f"--variant={recipe.variant}"]
    argv += [f"--include={','.join(recipe.packages)}"] if recipe.packages else []
    argv += [f"--dpkgopt=path-exclude={path}" for path in recipe.excluded_paths]
    # The machine's own name, resolver and sources would otherwise be in every image.
    apt = "/etc/apt/sources.list.d"
    argv += [f'--customize-hook=rm -f "$1"{apt}/0000* "$1"/etc/apt/sources.list']
    argv += [f'--customize-hook=mkdir -p "$1"{apt}']
    argv += [f"--customize-hook=upload {scratch}/image.sources {apt}/debian.sources"]
    argv += [f"--customize-hook=upload {scratch}/hostname /etc/hostname"]
    argv += [f"--customize-hook=upload {scratch}/resolv.conf /etc/resolv.conf"]
    argv += [f"--customize-hook={hook}" for hook in recipe.hooks]
    argv += [recipe.suite, os.fspath(target), f"{scratch}/build.sources"]
    return argv


def _environment(scratch: str) -> dict[str, str]:
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "TMPDIR": scratch,
    }


def oci_architecture() -> str:
    """Return OCI's name of this machine's architecture."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _sources(apt: Path) -> Iterator[tuple[str, str, str | None]]:
    """Yield (URI, suite, keyring) of every enabled binary source."""
    folder = apt / "sources.list.d"
    for path in [apt / "sources.list", *sorted(folder.glob("*.list"))]:
        if path.is_file():
            yield from _one_line_sources(path.read_text(errors="replace"))
    for path in sorted(folder.glob("*.sources")):
        yield from _deb822_sources(path.read_text(errors="replace"))


def _one_line_sources(text: str) -> Iterator[tuple[str, str, str | None]]:
    for line in text.splitlines():
        found = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if found and "main" in found[4].split():
            options = dict(word.split("=", 1) for word in (found[1] or "").split() if "=" in word)
            yield found[2], found[3], _path(options.get("signed-by"))


def _deb822_sources(text: str) -> Iterator[tuple[str, str, str | None]]:
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            else:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        if "main" in fields.get("components", "").split():
            for uri in fields.get("uris", "").split()[:1]:
                for suite in fields.get("suites", "").split():
                    yield uri, suite, _path(fields.get("signed-by"))


def _path(keyring: str | None) -> str | None:
    """An inline key or a fingerprint is no path; the archive's own keyring is used then."""
    return keyring if keyring is not None and keyring.startswith("/") else None


def _assignments(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value.strip("\"'")
