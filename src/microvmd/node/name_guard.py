"""Checks which name a guest's connections are for: one HAProxy in the guest's own namespace.

It runs only where names are allowed (``model.egress.Reach.names``). The packet filter hands it the
connections to addresses that the guest learned by an allowed name, on ports 443 and 80. It ends
the guest's TCP connection, so what it reads is what the server gets, and forwards to the address
that the guest had named. HAProxy reads the bytes of the guest; the part that is ours
(``name_guard.lua``) is memory-safe and gets one whole record.

The process is found by its files, so it goes on while the node is down and needs no adoption.
"""

import asyncio
import contextlib
import grp
import json
import os
import pwd
import shutil
import signal
from collections.abc import Iterable, Set
from importlib import resources
from pathlib import Path
from string import Template

import structlog

from microvmd.model.names import WILDCARD
from microvmd.vmm.process import ProcessFailed, run

log = structlog.get_logger(__name__)

TLS_PORT = 9443
HTTP_PORT = 9080
CONNECTIONS = 256
"""Of one guest at a time; each takes two buffers of 16 KiB."""
_START_LIMIT = 20.0
_COMMAND_LIMIT = 10.0
_AT_ONCE = 50
_USERS = ("haproxy", "nobody")


class NameGuard:
    """The guard of one namespace; ``directory`` is its own."""

    def __init__(self, directory: Path, namespace: Path, gateway: str) -> None:
        self._directory = directory
        self._namespace = namespace
        self._gateway = gateway

    @property
    def allowed(self) -> frozenset[str] | None:
        """The patterns that the running guard goes by; None where none runs."""
        if _pidfd(self._directory, closing=True) is None:
            return None
        try:
            return frozenset(json.loads((self._directory / "names.json").read_text()))
        except FileNotFoundError:
            return None

    async def keep_to(self, patterns: Set[str]) -> None:
        """Let through what these patterns allow and nothing else, or end where there are none.

        Connections go on when patterns were only added; else all end. Raises ProcessFailed, and
        then nothing is let through.
        """
        allowed = self.allowed
        if allowed == patterns:
            return
        if allowed is not None and patterns and allowed < patterns:
            with contextlib.suppress(OSError, TimeoutError):
                await self._add(patterns - allowed)
                self._write_names(patterns)
                return
        self.end()
        if patterns:
            await self._start(patterns)

    def end(self) -> None:
        """At once, with all connections."""
        end(self._directory)

    async def _start(self, patterns: Set[str]) -> None:
        directory = self._directory
        (directory / "empty").mkdir(mode=0o755, parents=True)
        exact, below = _split(patterns)
        (directory / "exact").write_text(_lines(exact))
        (directory / "below").write_text(_lines(below))
        (directory / "name_guard.lua").write_text(_resource("name_guard.lua"))
        (directory / "cfg").write_text(self._config())
        argv = ["nsenter", f"--net={self._namespace}", "haproxy", "-D"]
        try:
            await run(
                [*argv, "-p", os.fspath(directory / "pid"), "-f", os.fspath(directory / "cfg")],
                timeout=_START_LIMIT,
                daemonises=True,
                env={"PATH": os.environ.get("PATH", os.defpath)},  # and nothing of ours
            )
            self._write_names(patterns)
        except BaseException:
            self.end()
            raise
        log.debug("name_guard.started", directory=os.fspath(directory))

    def _config(self) -> str:
        user, group = _user()
        paths = {name: self._directory / name for name in ("exact", "below", "empty")}
        return Template(_resource("name_guard.cfg")).substitute(
            paths,
            connections=CONNECTIONS,
            lua=self._directory / "name_guard.lua",
            socket=self._directory / "s",
            user=user,
            group=group,
            gateway=self._gateway,
            tls_port=TLS_PORT,
            http_port=HTTP_PORT,
        )

    def _write_names(self, patterns: Set[str]) -> None:
        fresh = self._directory / "names.new"
        fresh.write_text(json.dumps(sorted(patterns)))
        fresh.rename(self._directory / "names.json")

    async def _add(self, patterns: Set[str]) -> None:
        exact, below = _split(patterns)
        commands = [f"add acl {self._directory}/exact {name}" for name in exact]
        commands += [f"add acl {self._directory}/below {name}" for name in below]
        for first in range(0, len(commands), _AT_ONCE):
            answer = await self._command("; ".join(commands[first : first + _AT_ONCE]))
            if answer.strip():
                raise OSError(f"HAProxy does not take a name: {answer.strip()}")

    async def _command(self, line: str) -> str:
        async with asyncio.timeout(_COMMAND_LIMIT):
            reader, writer = await asyncio.open_unix_connection(self._directory / "s")
            try:
                writer.write(line.encode() + b"\n")
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()


def end(directory: Path) -> None:
    """End the guard of this directory if it runs, and remove the directory."""
    held = _pidfd(directory)
    if held is not None:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signal.SIGKILL)
        finally:
            os.close(held)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _pidfd(directory: Path, *, closing: bool = False) -> int | None:
    """Holds the guard of this directory; None where none runs. ``closing``: only whether."""
    try:
        pid = int((directory / "pid").read_text())
        held = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    # The order matters: what the pidfd holds can no longer be replaced by another process.
    try:
        ours = os.fsencode(directory / "cfg") in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        ours = False
    if closing or not ours:
        os.close(held)
    return held if ours else None


def _split(patterns: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names, and the ends of what wildcards allow."""
    names = sorted(patterns)
    exact = [name for name in names if not name.startswith(WILDCARD)]
    return exact, [name.removeprefix("*") for name in names if name.startswith(WILDCARD)]


def _lines(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _resource(name: str) -> str:
    return resources.files("microvmd.node").joinpath(name).read_text(encoding="utf-8")


def _user() -> tuple[str, str]:
    """Whom the guard runs as, and the name of that one's group."""
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return name, grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    raise ProcessFailed(["haproxy"], None, f"this machine has no user {' or '.join(_USERS)}")
