"""The data plane as one resource: certificates, HAProxy, its maps, the sockets that it asks.

Leaving it does not stop HAProxy: RUNNING MicroVMs keep answering while the control plane is down,
and the next Edge with the same settings adopts what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from types import TracebackType

import structlog

from microvmd.edge import activity, certificates, config, resolve, shell, stats
from microvmd.edge.activity import Activity
from microvmd.edge.certificates import Certificates
from microvmd.edge.config import EdgeSettings
from microvmd.edge.haproxy import HAProxy, HAProxyFailed
from microvmd.edge.resolve import Resolve
from microvmd.edge.routes import Routes, replace_map, write_keys
from microvmd.edge.shell import ShellDoor
from microvmd.edge.stats import CommandFailed
from microvmd.vmm.process import ProcessFailed

log = structlog.get_logger(__name__)

Keys = Callable[[], Mapping[str, str]]

_PORTS = (443, 8443)
_KEY_INTERVAL = 5.0
_CERTIFICATE_INTERVAL = 12 * 3600.0
_RESTART_DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


def _can_bind(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


class Edge:
    """`resolve` is asked where a MicroVM is that has no route, `shells` gives shells in MicroVMs,
    `keys` gives kid -> token secret.

    `keys` is read every few seconds, so a key must be in it for longer than that before the first
    token is signed with it (control.tokens does so).
    """

    def __init__(
        self, settings: EdgeSettings, *, resolve: Resolve, shells: ShellDoor, keys: Keys
    ) -> None:
        self._settings = settings
        self._files = settings.files
        self._resolve = resolve
        self._shells = shells
        self._keys = keys
        self._haproxy = HAProxy(settings)
        self._stack = contextlib.AsyncExitStack()
        self._user = config.service_user()
        self._published: dict[str, str] = {}
        self._stopped = False
        self._digest = ""
        self.routes = Routes(self._files)
        self.port = 0
        self.certificates: Certificates

    def endpoint(self, endpoint_id: str) -> str:
        """Name of a MicroVM's endpoint, with the port unless it is the one of https."""
        name = f"{endpoint_id}.{self._settings.suffix}"
        return name if self.port == 443 else f"{name}:{self.port}"

    async def __aenter__(self) -> Edge:
        files = self._files
        files.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.jail.mkdir(mode=0o755, exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            gid = self._user.gid if self._user else None
            await stack.enter_async_context(
                resolve.serve(
                    files.resolver_socket, gid, self._resolve, self._settings.hold_seconds
                )
            )
            await stack.enter_async_context(
                shell.serve(
                    files.shell_socket,
                    gid,
                    self._shells,
                    hold=self._settings.hold_seconds,
                    per_microvm=self._settings.shells,
                )
            )
            await self._take_or_start()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for work in (self._supervise(), self._follow_keys(), self._renew_certificates()):
                stack.callback(tasks.create_task(work).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def activity(self) -> dict[str, Activity]:
        """Bytes and open streams by endpoint id. Raises CommandFailed while HAProxy is down."""
        return activity.parse_tables(
            await stats.command_all(
                self._files.master_socket, self._files.stats_socket, "show table activity"
            )
        )

    async def publish_keys(self) -> None:
        """Give HAProxy the current keys now instead of within five seconds."""
        keys = dict(self._keys())
        await replace_map(self._files, str(self._files.keys_map), keys)
        self._published = keys

    async def stop(self) -> None:
        """Stop serving for good (uninstall, tests). Open connections are cut."""
        self._stopped = True
        await self._haproxy.stop()

    async def _take_or_start(self) -> None:
        if not await self._haproxy.adopt():
            self._choose_port(free=True)
            self._write_files()
            await self._haproxy.start(self._digest)
            await self._push()
            return
        self._choose_port(free=False)
        await self.routes.load()
        self._write_files()
        if await stats.description(self._files.stats_socket) != self._digest:
            await self._haproxy.reload(self._digest)
        await self._push()

    def _choose_port(self, *, free: bool) -> None:
        """The setting, else the port of last time, else 443 or 8443, whichever is free."""
        addresses = [a for a in self._settings.addresses if _can_bind(a, 0)]
        known = [int(self._files.port.read_text())] if self._files.port.exists() else []
        candidates = [self._settings.port] if self._settings.port else [*known, *_PORTS]
        for port in candidates:
            if not free or all(_can_bind(address, port) for address in addresses):
                break
        else:
            raise HAProxyFailed(f"no free port for the edge among {candidates}")
        self.port = port
        self._addresses = addresses
        self._files.port.write_text(str(port))

    def _write_files(self) -> None:
        settings = self._settings
        self.certificates = certificates.ensure(
            self._files.certificates, domain=settings.domain, suffix=settings.suffix
        )
        text, self._digest = config.render(
            settings,
            addresses=self._addresses,
            port=self.port,
            user=self._user,
            certificate_digest=self.certificates.digest,
        )
        config.write(self._files, text)
        self._published = dict(self._keys())
        write_keys(self._files, self._published)
        self.routes.write_file()

    async def _push(self) -> None:
        await self.routes.push()
        await self.publish_keys()

    async def _supervise(self) -> None:
        """HAProxy is started again when it dies, with all it had to know."""
        while True:
            await self._haproxy.wait()
            if self._stopped:
                return
            log.error("edge.haproxy_died")
            for delay in (*_RESTART_DELAYS, *[_RESTART_DELAYS[-1]] * 1000):
                await asyncio.sleep(delay)
                try:
                    self._write_files()
                    await self._haproxy.start(self._digest)
                    await self._push()
                    break
                except (ProcessFailed, HAProxyFailed, CommandFailed, OSError) as error:
                    log.error("edge.haproxy_not_started", error=str(error))

    async def _follow_keys(self) -> None:
        while True:
            await asyncio.sleep(_KEY_INTERVAL)
            if dict(self._keys()) != self._published:
                try:
                    await self.publish_keys()
                except CommandFailed as error:
                    log.warning("edge.keys_not_pushed", error=str(error))

    async def _renew_certificates(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_INTERVAL)
            before = self._digest
            try:
                self._write_files()
                if self._digest != before:
                    await self._haproxy.reload(self._digest)
                    await self._push()
            except (ProcessFailed, HAProxyFailed, CommandFailed, OSError) as error:
                log.error("edge.certificate_not_renewed", error=str(error))
