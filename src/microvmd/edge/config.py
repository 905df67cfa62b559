"""From settings to the files that HAProxy reads: its configuration, the Lua part, error answers."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

_SAFE_PATH = re.compile(r"[A-Za-z0-9._/+-]+")
_DNS_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{1,63}")
_ERRORS = {
    400: "Bad Request",
    403: "Forbidden",
    408: "Request Time-out",
    413: "Payload Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    504: "Gateway Time-out",
}
_UNIX_PATH_LIMIT = 107
RATE_SECONDS = 10
"""What http_req_rate of the activity table is taken over."""


class EdgeConfigError(ValueError):
    """A setting that cannot be put into HAProxy's configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """What one endpoint and one client address may take of HAProxy; 0 is no limit.

    Those of an endpoint are for each processor that its MicroVM sees at its peak: AWS limits
    connections to 8 at 512 MiB of baseline memory (one processor) and 128 at 8192 (sixteen), and
    requests to 40 a second at four processors and 160 at sixteen.
    """

    connections_per_vcpu: int = 8
    """HTTP/1.1 requests in progress and WebSockets."""
    streams_per_vcpu: int = 64
    """All requests in progress, those over HTTP/2 included."""
    requests_per_vcpu: int = 10
    """A second, on the average of ten."""
    connections_per_source: int | None = None
    """None is a quarter of all that HAProxy takes."""
    refusals_per_source: int = 200
    """Requests without a valid token in ten seconds; and refusals that wait for a small body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Where the edge keeps its files, which names it serves and where it listens.

    `root` survives a reboot (certificates), `run` does not (sockets, rendered configuration).
    `port` None means 443 where it is free, else 8443.
    """

    root: Path
    run: Path
    region: str = "us-east-1"
    domain: str = "microvm.localhost"
    port: int | None = None
    addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    hold_seconds: int = 60
    threads: int = min(4, os.cpu_count() or 1)
    shells: int = 16
    """Shell sessions of one MicroVM at a time."""
    limits: EdgeLimits = EdgeLimits()
    haproxy: str = "haproxy"

    def __post_init__(self) -> None:
        for path in (self.root, self.run):
            if not _SAFE_PATH.fullmatch(str(path)):
                raise EdgeConfigError(f"{path}: only letters, digits and ._/+- in paths")
        if not _DNS_NAME.fullmatch(self.suffix):
            raise EdgeConfigError(f"{self.suffix} is not a lower-case DNS name")
        if len(os.fsencode(self.files.stats_socket)) + 16 > _UNIX_PATH_LIMIT:
            raise EdgeConfigError(f"{self.run} is too long for a UNIX socket's path")

    @property
    def suffix(self) -> str:
        """What follows the endpoint id in an endpoint's name."""
        return f"lambda-microvm.{self.region}.{self.domain}"

    @property
    def files(self) -> EdgeFiles:
        return EdgeFiles(root=self.root, run=self.run / "edge")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeFiles:
    """Every path that the edge uses."""

    root: Path
    run: Path

    @property
    def certificates(self) -> Path:
        return self.root / "ca"

    @property
    def config(self) -> Path:
        return self.run / "haproxy.cfg"

    @property
    def lua(self) -> Path:
        return self.run / "edge.lua"

    @property
    def errors(self) -> Path:
        return self.run / "errors"

    @property
    def routes_map(self) -> Path:
        return self.run / "routes.map"

    @property
    def keys_map(self) -> Path:
        return self.run / "keys.map"

    @property
    def port(self) -> Path:
        """The port chosen last time: endpoints carry it, so a restart must not change it."""
        return self.run / "port"

    @property
    def pid(self) -> Path:
        return self.run / "haproxy.pid"

    @property
    def stats_socket(self) -> Path:
        return self.run / "stats.sock"

    @property
    def master_socket(self) -> Path:
        return self.run / "master.sock"

    @property
    def jail(self) -> Path:
        """HAProxy's worker sees only this directory, and in it the two sockets below."""
        return self.run / "jail"

    @property
    def resolver_socket(self) -> Path:
        return self.jail / "resolve.sock"

    @property
    def shell_socket(self) -> Path:
        return self.jail / "shell.sock"


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """The unprivileged account that HAProxy's worker drops to."""

    name: str
    uid: int
    gid: int


def service_user() -> ServiceUser | None:
    """The `haproxy` account of the distribution's package; None when we could not switch to it."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("haproxy")
        grp.getgrnam("haproxy")
    except KeyError:
        return None
    return ServiceUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _package_text(name: str) -> str:
    return resources.files("microvmd.edge").joinpath(name).read_text(encoding="utf-8")


def _binds(settings: EdgeSettings, addresses: Sequence[str], port: int) -> str:
    # A connection that says nothing stays in the kernel (defer-accept) and costs HAProxy nothing.
    certificate = settings.files.certificates / "edge.pem"
    return "\n".join(
        f"  bind {f'[{address}]' if ':' in address else address}:{port} "
        f"ssl crt {certificate} alpn h2,http/1.1 defer-accept"
        for address in addresses
    )


def _privileges(files: EdgeFiles, user: ServiceUser | None) -> str:
    if user is None:
        return "  # not root, or no haproxy account: no privileges to drop"
    return f"  chroot {files.jail}\n  user {user.name}\n  group {user.name}"


def _max_connections() -> int:
    """A request has a client's and a guest's connection, and one in four a pipe to splice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65536 if hard == resource.RLIM_INFINITY else hard
    return max(100, min(20000, (limit - 1000) // 3))


def _source_connections(limits: EdgeLimits) -> str:
    most = limits.connections_per_source
    if most is None:
        most = _max_connections() // 4
    if not most:
        return "  # no limit of connections from one address"
    return f"  tcp-request connection reject if {{ sc1_conn_cur gt {most} }}"


def _source_refusals(limits: EdgeLimits) -> str:
    """Guessing costs as little as can be: no answer in words, and no connection to go on with."""
    most = limits.refusals_per_source
    if not most:
        return "  # no limit of refusals from one address"
    return (
        "  http-request return status 429 hdr connection close "
        f"if !authentic {{ sc1_gpc0_rate gt {most} }}"
    )


def _few_awaited(limits: EdgeLimits) -> str:
    """The condition that of one address not too many bodies are waited for."""
    most = limits.refusals_per_source
    return f" {{ sc1_gpc1_rate lt {most} }}" if most else ""


def _endpoint_limits(limits: EdgeLimits) -> str:
    """Rules that answer 429; a token says how many processors its MicroVM has.

    Looked up and not tracked, so that a request that is refused here counts nowhere.
    """
    lines = ["  http-request set-var(txn.vcpus) var(txn.claims),json_query('$.vcpus','int')"]
    for name, each, looked_up in (
        ("connections", limits.connections_per_vcpu, "table_conn_cur(connections)"),
        ("streams", limits.streams_per_vcpu, "table_conn_cur(activity)"),
        ("requests", limits.requests_per_vcpu * RATE_SECONDS, "table_http_req_rate(activity)"),
    ):
        if each:
            over_http1 = "{ fc_http_major 1 } " if name == "connections" else ""
            spent = f"{{ var(txn.endpoint),{looked_up},sub(txn.most_{name}) -m int ge 0 }}"
            lines += [
                f"  http-request set-var(txn.most_{name}) var(txn.vcpus),mul({each})",
                # Where there is room again after the wait it is not refused.
                f"  http-request sc-inc-gpc1(1) if http_token awaited {over_http1}{spent}",
                f"  http-request wait-for-body time 5s if http_token awaited {over_http1}{spent}",
                f"  http-request deny deny_status 429 if http_token {over_http1}{spent}",
            ]
    return "\n".join(lines)


def render(
    settings: EdgeSettings,
    *,
    addresses: Sequence[str],
    port: int,
    user: ServiceUser | None,
    certificate_digest: str,
) -> tuple[str, str]:
    """HAProxy's configuration and its digest, which also covers the Lua file and the certificate.

    The running process shows the digest as its description, so that whoever adopts it can tell
    whether it runs this very configuration.
    """
    files = settings.files

    def seen(socket: Path) -> str:
        return f"unix@{socket if user is None else f'/{socket.name}'}"

    values = {
        "THREADS": settings.threads,
        "MAXCONN": _max_connections(),
        "PRIVILEGES": _privileges(files, user),
        "STATS_SOCKET": files.stats_socket,
        "LUA_FILE": files.lua,
        "RESOLVER": seen(files.resolver_socket),
        "SHELL_SOCKET": seen(files.shell_socket),
        "HOLD_SECONDS": settings.hold_seconds,
        "ERRORS": files.errors,
        "BINDS": _binds(settings, addresses, port),
        "KEYS_MAP": files.keys_map,
        "ROUTES_MAP": files.routes_map,
        "SUFFIX_REGEX": re.escape(settings.suffix),
        "SOURCE_CONNECTIONS": _source_connections(settings.limits),
        "SOURCE_REFUSALS": _source_refusals(settings.limits),
        "FEW_AWAITED": _few_awaited(settings.limits),
        "ENDPOINT_LIMITS": _endpoint_limits(settings.limits),
    }
    template = Template(_package_text("haproxy.cfg"))
    body = template.substitute(values, DIGEST="-")
    seed = "\0".join((body, _package_text("edge.lua"), certificate_digest))
    digest = hashlib.sha256(seed.encode()).hexdigest()[:32]
    return template.substitute(values, DIGEST=digest), digest


def write(files: EdgeFiles, configuration: str) -> None:
    """Put everything that HAProxy reads at start where the configuration says it is."""
    files.errors.mkdir(mode=0o700, parents=True, exist_ok=True)
    for status, reason in _ERRORS.items():
        answer = f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n"
        (files.errors / f"{status}.http").write_text(answer, newline="")
    files.lua.write_text(_package_text("edge.lua"), encoding="utf-8")
    files.config.write_text(configuration, encoding="utf-8")
