"""What this machine must have to run MicroVMs: one check each, with the reason and the remedy.

A check looks and changes nothing but the cache. ``failed`` means that the service cannot do its
work, ``warning`` that it can, but less well or less fast than it might.
"""

import asyncio
import ctypes
import errno
import os
import pwd
import re
import shlex
import shutil
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Literal

import httpx

from microvmd.cli.fitting import differences
from microvmd.node import kernel
from microvmd.node.paths import NodePaths
from microvmd.node.snapshot import TITLES, Stamp
from microvmd.service.accelerator import CACHE
from microvmd.service.failure import Failure
from microvmd.service.keeper import SOCKET
from microvmd.service.routes import PREFIX
from microvmd.service.user import ADD_USER, ROOT, ServiceUser, check_reach
from microvmd.settings.settings import HTTPS, HTTPS_UNPRIVILEGED, Settings
from microvmd.vmm.accelerator import ProbeGuest, detect, remembered
from microvmd.vmm.choice import Choice, VmmUnfit, choose, choose_others
from microvmd.vmm.machine import Accelerator, AcceleratorKind, Vmm
from microvmd.vmm.process import ProcessFailed, run

SETUP = "./run setup installs it"
COMMAND_SECONDS = 10.0
REASON_LENGTH = 200
OLDEST_QEMU = (10, 0)
OLDEST_KERNEL = (6, 12)
TOOLS = {
    "haproxy": ("haproxy", "-v"),
    "nftables": ("nft", "--version"),
    "erofs-utils": ("mkfs.erofs", "--help"),
    "e2fsprogs": ("mke2fs", "-V"),
    "mmdebstrap": ("mmdebstrap", "--version"),
}
GIB = 1 << 30
DISK_NEEDED = 2 * GIB
DISK_WANTED = 10 * GIB
MEMORY_NEEDED = GIB
# bits of /proc/self/status CapEff, from linux/capability.h
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "NET_ADMIN": 12,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
}
# adjtimex(2): the return value of a clock that nothing keeps right
TIME_ERROR = 5
TIMEX_BYTES = 208

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; ``mend`` is empty when all is well."""

    state: State
    why: str
    mend: str = ""


Check = Callable[[Settings], Finding]


def privileges(_: Settings) -> Finding:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"CapEff:\s*([0-9a-f]+)", status)
    held = int(found[1], 16) if found else 0
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if os.geteuid() != 0:
        return Finding("failed", f"this is uid {os.geteuid()}", "run it as root")
    if missing:
        return Finding(
            "failed",
            f"root without {', '.join(f'CAP_{name}' for name in missing)}",
            "give the container or unit these capabilities",
        )
    return Finding("ok", "root with the capabilities that jails and networks need")


def accelerator(settings: Settings) -> Finding:
    """Asks as the service does: the answer is shared and holds until the machine boots again."""
    try:
        guest = kernel.prepare(settings.assets, settings.cache)
    except kernel.KernelError as error:
        return Finding("failed", f"cannot be probed: {error}", "./run setup makes the guest kernel")
    limit = settings.vmm.probe_seconds
    probe = ProbeGuest(guest.vmlinux, guest.initrd, limit=limit)
    found = asyncio.run(detect(settings.vmm.accelerator, probe, settings.cache / CACHE))
    if found.kind is AcceleratorKind.KVM:
        return Finding("ok", f"KVM: {found.reason}")
    reason = " ".join(found.reason.split())[:REASON_LENGTH]
    return Finding(
        "warning",
        f"emulation (TCG): {reason}. Guests run, about ten times slower than under KVM",
        "use a machine with hardware virtualisation, or turn on nested virtualisation in its host",
    )


def qemu(_: Settings) -> Finding:
    text = command_output("qemu-system-x86_64", "--version")
    found = re.search(r"version (\d+)\.(\d+)(\.\d+)?", text or "")
    if found is None:
        return Finding("failed", "qemu-system-x86_64 does not run", SETUP)
    version = (int(found[1]), int(found[2]))
    if version < OLDEST_QEMU:
        return Finding("failed", f"QEMU {found[0][8:]} is older than 10.0", SETUP)
    return Finding("ok", f"QEMU {found[0][8:]}")


class VmmChecks:
    """Of one report: the VMMs are asked who they are once for it."""

    def __init__(self) -> None:
        self._asked: tuple[Accelerator, Choice, Sequence[Vmm]] | None = None

    def choice(self, settings: Settings) -> Finding:
        """Which program runs machines, as the node chooses it, and what images may choose."""
        try:
            _, chosen, others = self._vmms(settings)
        except (VmmUnfit, ProcessFailed, OSError) as error:
            return _without_vmm(error)
        offered = "".join(f"; images may choose {_named(vmm)}" for vmm in others)
        return Finding("ok", f"{_named(chosen.vmm)}: {chosen.reason}{offered}")

    def snapshots(self, settings: Settings) -> Finding:
        """Whether this machine can restore those of its image versions, as a run would find it."""
        try:
            here, chosen, others = self._vmms(settings)
        except (VmmUnfit, ProcessFailed, OSError) as error:
            return _without_vmm(error)
        stamps = [Stamp.of(here, vmm) for vmm in (chosen.vmm, *others)]
        found = differences(NodePaths(settings.root).images, stamps)
        unfit = [(version, why) for version, why in found.items() if why is not None]
        if not unfit:
            return Finding("ok", f"those of all {len(found)} image versions fit this machine")
        version, why = unfit[0]
        name = f"{version.image_name} {version.number}"
        if len({each.account for each in found}) > 1:
            name += f" of account {version.account}"
        return Finding(
            "warning",
            f"{len(unfit)} of {len(found)} image versions are built again by their first run, "
            f"{name} among them: {why}",
            "run each once before it is needed, or bring back what made them",
        )

    def _vmms(self, settings: Settings) -> tuple[Accelerator, Choice, Sequence[Vmm]]:
        if self._asked is None:
            self._asked = asyncio.run(_vmms(settings))
        return self._asked


def _without_vmm(error: Exception) -> Finding:
    return Finding("failed", str(error), "see docs/reference/vmms.md")


async def _vmms(settings: Settings) -> tuple[Accelerator, Choice, Sequence[Vmm]]:
    here, wanted, assets = _here(settings), settings.vmm.wanted, settings.assets
    chosen = await choose(wanted, here, assets)
    others = await choose_others(wanted, settings.vmm.offered, chosen.vmm, here, assets)
    return here, chosen, others


def _here(settings: Settings) -> Accelerator:
    known = remembered(settings.cache / CACHE)
    if settings.vmm.accelerator != "auto":
        known = Accelerator(AcceleratorKind(settings.vmm.accelerator), "as configured", 0)
    return known or Accelerator(AcceleratorKind.TCG, "nobody has tried KVM yet", 0)


def _named(vmm: Vmm) -> str:
    return f"{TITLES[vmm.name]} {vmm.version}"


def tools(_: Settings) -> Finding:
    missing = [package for package, argv in TOOLS.items() if shutil.which(argv[0]) is None]
    if missing:
        return Finding("failed", f"not installed: {', '.join(missing)}", SETUP)
    broken = [package for package, argv in TOOLS.items() if command_output(*argv) is None]
    if broken:
        return Finding("failed", f"does not run: {', '.join(broken)}", "reinstall the package")
    return Finding("ok", ", ".join(TOOLS))


def assets(settings: Settings) -> Finding:
    place = settings.assets
    missing = [
        name
        for name in ("microvmd-agent", "microvmd-jailer")
        if not os.access(place / name, os.X_OK)
    ]
    kernels = sorted(path.parent.name for path in place.glob("kernel/*/vmlinuz"))
    if not kernels:
        missing.append("kernel")
    if missing:
        return Finding(
            "failed", f"{place} has no {', no '.join(missing)}", "./run setup makes them"
        )
    newest = kernels[-1]
    found = re.match(r"(\d+)\.(\d+)", newest)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_KERNEL:
        return Finding("failed", f"guest kernel {newest} is older than 6.12", "./run setup --force")
    return Finding("ok", f"guest kernel {newest}, guest agent, jailer")


def cgroups(_: Settings) -> Finding:
    where = {}
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    hybrid = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    for path in (unified, hybrid):
        if path.is_file():
            where.update(dict.fromkeys(path.read_text().split(), "v2"))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        for controller in line.split(":")[1].split(","):
            where.setdefault(controller, "v1")
    missing = [name for name in ("memory", "pids") if name not in where]
    if missing:
        return Finding(
            "failed",
            f"no {' and no '.join(missing)} controller: a MicroVM's limits cannot be set",
            "boot with the cgroup controllers on (systemd does), or give the container its cgroup",
        )
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return Finding("failed", "/sys/fs/cgroup is read-only", "remount it writable")
    return Finding("ok", f"memory ({where['memory']}), pids ({where['pids']})")


def packet_filter(_: Settings) -> Finding:
    if not Path("/dev/net/tun").exists():
        return Finding("failed", "there is no /dev/net/tun", "modprobe tun")
    if command_output("nft", "list", "tables") is None:
        return Finding(
            "failed", "nft cannot list tables", "modprobe nf_tables; needs CAP_NET_ADMIN"
        )
    return Finding("ok", "/dev/net/tun and nf_tables")


def forwarding(_: Settings) -> Finding:
    on = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    if on:
        return Finding("ok", "IPv4 forwarding is on")
    if os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK):
        return Finding("ok", "IPv4 forwarding is off; the service turns it on when it starts")
    return Finding(
        "failed",
        "IPv4 forwarding is off and /proc/sys cannot be written",
        "sysctl -w net.ipv4.ip_forward=1",
    )


def subnet(settings: Settings) -> Finding:
    ours = settings.network.subnet
    taken = [
        f"{network} on {interface}"
        for interface, network in _routes(Path("/proc/net/route").read_text())
        # "*" is a reject route, as the one that keeps our own unused addresses in.
        if interface != "*"
        and network.prefixlen > 0
        and network.overlaps(ours)
        and not interface.startswith(settings.network.prefix)
    ]
    if taken:
        return Finding(
            "failed",
            f"{ours} is in use: {', '.join(taken)}",
            "choose another one: network.subnet (MICROVMD_NETWORK_SUBNET)",
        )
    return Finding("ok", f"{ours} is free for MicroVMs")


def user_ids(settings: Settings) -> Finding:
    first, count = settings.vmm.uid_first, settings.vmm.uid_count
    taken = [user.pw_name for user in pwd.getpwall() if first <= user.pw_uid < first + count]
    if taken:
        return Finding(
            "failed",
            f"users have ids of the range for VMMs: {', '.join(taken[:3])}",
            "choose another one: vmm.uid_first (MICROVMD_VMM_UID_FIRST)",
        )
    return Finding("ok", f"{first} to {first + count - 1} are free for VMMs")


def service_user(settings: Settings) -> Finding:
    name = settings.service.user
    found = ServiceUser.find(name)
    if found is None:
        return Finding(
            "warning",
            f"there is no user {name}; the service makes it when it starts",
            f"make it now: {shlex.join([*ADD_USER, name])}",
        )
    if found.is_root:
        return Finding(
            "warning",
            "the service keeps root: who takes the API or the edge over has this machine",
            "set service.user (MICROVMD_SERVICE_USER) to an account of its own",
        )
    try:
        check_reach(settings, found)
    except Failure as failure:
        return Finding("failed", failure.message, failure.hint)
    return Finding("ok", f"the service runs as {name} ({found.uid}), the node alone as root")


def node_socket(settings: Settings) -> Finding:
    path = settings.run / SOCKET
    if not path.exists():
        return Finding("ok", "no node runs; the service starts one")
    found = ServiceUser.find(settings.service.user)
    for place, most in ((settings.run, 0o755), (path, 0o660)):
        state = place.stat()
        if state.st_uid != ROOT or stat.S_IMODE(state.st_mode) & ~most:
            return Finding(
                "failed",
                f"{place} is open to others than root",
                f"chown root {place}; chmod {most:o} {place}",
            )
    if found is not None and path.stat().st_gid != found.gid:
        return Finding(
            "failed", f"{path} is not for the group of {found.name}", "restart the service"
        )
    return Finding("ok", f"{path} is for root and {settings.service.user} only")


def ports(settings: Settings) -> Finding:
    if _serving(settings):
        return Finding("ok", f"the service answers at {settings.api.url}")
    wanted = [(settings.api.host, settings.api.port, "api.port (MICROVMD_API_PORT)")]
    edge = settings.edge
    if edge.port == "auto":
        if _bindable(edge.host, HTTPS):
            note = f"and {HTTPS} are free"
        else:
            note = f"and {HTTPS_UNPRIVILEGED} are free; {HTTPS} is taken, endpoints name the port"
            wanted.append((edge.host, HTTPS_UNPRIVILEGED, "edge.port (MICROVMD_EDGE_PORT)"))
    else:
        note = f"and {edge.port} are free"
        wanted.append((edge.host, edge.port, "edge.port (MICROVMD_EDGE_PORT)"))
    for host, port, setting in wanted:
        if not _bindable(host, port):
            return Finding("failed", f"{host}:{port} is taken by another program", f"set {setting}")
    return Finding("ok", f"ports {settings.api.port} {note}")


def names(settings: Settings) -> Finding:
    name = f"name-check.lambda-microvm.{settings.region}.{settings.edge.domain}"
    try:
        found = socket.getaddrinfo(name, HTTPS, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        mend = "apt-get install libnss-myhostname"
        if not settings.edge.domain.endswith("localhost"):
            mend = f"add a DNS wildcard *.lambda-microvm.{settings.region}.{settings.edge.domain}"
        return Finding("failed", f"{name} does not resolve: {error.strerror}", mend)
    addresses = sorted({str(entry[4][0]) for entry in found})
    return Finding("ok", f"*.{settings.edge.domain} is {', '.join(addresses)}")


def disk(settings: Settings) -> Finding:
    low = []
    free_of = []
    for place in (settings.root, settings.cache):
        existing = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        free_of.append(f"{free / GIB:.0f} GiB for {place}")
        if free < DISK_WANTED:
            low.append(free)
    why = ", ".join(free_of)
    if not low:
        return Finding("ok", why)
    state: State = "failed" if min(low) < DISK_NEEDED else "warning"
    return Finding(state, why, "make room, or set root and cache to a larger disk")


def memory(_: Settings) -> Finding:
    text = Path("/proc/meminfo").read_text()
    found = re.search(r"MemAvailable:\s*(\d+) kB", text)
    available = int(found[1]) * 1024 if found else 0
    if available < MEMORY_NEEDED:
        return Finding("warning", f"{available / GIB:.1f} GiB available", "add memory or swap")
    return Finding("ok", f"{available / GIB:.1f} GiB available")


def clock(_: Settings) -> Finding:
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    if state == TIME_ERROR:
        return Finding(
            "warning",
            "nothing keeps this machine's clock right; guests, tokens and certificates follow it",
            "apt-get install systemd-timesyncd",
        )
    return Finding("ok", "synchronised")


def command_output(*argv: str) -> str | None:
    try:
        done = asyncio.run(run(argv, timeout=COMMAND_SECONDS, check=False))
    except (ProcessFailed, OSError):
        return None
    return (done.stdout + done.stderr).decode(errors="replace")


def _serving(settings: Settings) -> bool:
    try:
        answer = httpx.get(f"{settings.api.url}{PREFIX}/health", timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return "checks" in answer.text


def _bindable(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                return False
            raise
    return True


def _routes(table: str) -> list[tuple[str, IPv4Network]]:
    """Interface and destination of each line of /proc/net/route (hexadecimal, host byte order)."""
    routes = []
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) < 8:
            continue
        address = IPv4Address(int.from_bytes(bytes.fromhex(words[1]), "little"))
        mask = IPv4Address(int.from_bytes(bytes.fromhex(words[7]), "little"))
        routes.append((words[0], IPv4Network(f"{address}/{mask}", strict=False)))
    return routes


def all_checks() -> Mapping[str, Check]:
    """In their order, for one report: the accelerator is known before VMMs are asked."""
    vmms = VmmChecks()
    return {
        "privileges": privileges,
        "accelerator": accelerator,
        "QEMU": qemu,
        "VMM": vmms.choice,
        "snapshots": vmms.snapshots,
        "tools": tools,
        "assets": assets,
        "control groups": cgroups,
        "packet filter": packet_filter,
        "forwarding": forwarding,
        "subnet": subnet,
        "user ids": user_ids,
        "service user": service_user,
        "node socket": node_socket,
        "ports": ports,
        "names": names,
        "disk": disk,
        "memory": memory,
        "clock": clock,
    }


def examine(found: Settings, every: Mapping[str, Check]) -> dict[str, Finding]:
    """Every check in order. One that breaks is a finding, not the end of the report."""
    findings = {}
    for name, check in every.items():
        try:
            findings[name] = check(found)
        except OSError as error:
            findings[name] = Finding("failed", f"cannot be checked: {error}")
    return findings
