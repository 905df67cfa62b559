"""What SECURITY.md claims, looked at on this machine: one check each, with reason and remedy.

Nothing is changed. ``failed`` means that a claim of SECURITY.md does not hold here, ``warning``
that something beside it weakens the whole. The hardening list is docs/how-to/security.md.
"""

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from microvmd.cli.checks import Check, Finding, command_output
from microvmd.node import jail_facts
from microvmd.node.bring_up import VmmRecord
from microvmd.node.nftables import host_table
from microvmd.node.paths import NodePaths
from microvmd.node.slots import NetworkSettings
from microvmd.settings.settings import Settings

VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")
SMT = Path("/sys/devices/system/cpu/smt/active")
SWAPS = Path("/proc/swaps")
KSM = Path("/sys/kernel/mm/ksm/run")
SYSCTL = Path("/proc/sys")
SOON = timedelta(days=7)
SECRET_DIRECTORIES = ("audit", "keys", "images", "microvms", "tmp")
SECRET_FILES = ("state.db", "known-files.json", "ca/ca.key", "ca/edge.pem")


def processor(_: Settings) -> Finding:
    """Known flaws of the processor, as the kernel judges itself."""
    if not VULNERABILITIES.is_dir():
        return Finding("warning", "the kernel does not say which flaws the processor has")
    found = {path.name: path.read_text().strip() for path in sorted(VULNERABILITIES.iterdir())}
    open_to = [name for name, text in found.items() if text.startswith("Vulnerable")]
    if open_to:
        return Finding(
            "warning",
            f"guests may read what is not theirs by {', '.join(open_to)}",
            "update microcode and kernel, and do not boot with mitigations=off",
        )
    return Finding("ok", f"{len(found)} known flaws: mitigated, or not in this processor")


def threads(_: Settings) -> Finding:
    if _value(SMT) == "1":
        return Finding(
            "warning",
            "two guests can share a core (SMT is on), and see traces of each other",
            "boot with nosmt, or echo off > /sys/devices/system/cpu/smt/control",
        )
    return Finding("ok", "guests share no core at a time (SMT is off or not there)")


def swap(_: Settings) -> Finding:
    places = [line.split()[0] for line in SWAPS.read_text().splitlines()[1:]]
    if places:
        return Finding(
            "warning",
            f"memory of guests may be written to {', '.join(places)}",
            "swapoff -a, or encrypt swap with a key that is drawn at boot",
        )
    return Finding("ok", "no swap: memory of guests goes to no disk")


def merging(_: Settings) -> Finding:
    if _value(KSM) == "1":
        return Finding(
            "warning",
            "the kernel merges equal pages (KSM); VMMs opt out, other programs do not",
            "echo 2 > /sys/kernel/mm/ksm/run",
        )
    return Finding("ok", "equal pages of guests are not merged")


def kernel_secrets(_: Settings) -> Finding:
    """What a process without rights learns about the kernel."""
    wanted = {"kernel/kptr_restrict": 1, "kernel/dmesg_restrict": 1}
    low = [name for name, least in wanted.items() if int(_value(SYSCTL / name) or 0) < least]
    if low:
        return Finding(
            "warning",
            f"kernel addresses or messages are shown to everyone ({', '.join(low)})",
            "sysctl -w kernel.kptr_restrict=1 kernel.dmesg_restrict=1",
        )
    return Finding("ok", "kernel addresses and messages are for root only")


def filters(settings: Settings) -> Finding:
    actions = (_value(SYSCTL / "kernel/seccomp/actions_avail") or "").split()
    if "kill_process" not in actions:
        return Finding(
            "failed", "the kernel cannot filter system calls", "use one with CONFIG_SECCOMP_FILTER"
        )
    if settings.vmm.seccomp != "enforce":
        return Finding(
            "failed",
            f"VMMs may make any system call that QEMU's own filter leaves ({settings.vmm.seccomp})",
            "set vmm.seccomp = enforce (MICROVMD_VMM_SECCOMP) and start them again",
        )
    return Finding("ok", "a VMM that makes a system call that is not on the list ends")


def user_namespaces(settings: Settings) -> Finding:
    """They open much of the kernel to processes without rights; VMMs cannot make them."""
    switches = ("kernel/unprivileged_userns_clone", "user/max_user_namespaces")
    if any(_value(SYSCTL / name) == "0" for name in switches):
        return Finding("ok", "processes without rights cannot make user namespaces")
    if settings.vmm.seccomp == "enforce":
        return Finding("ok", "VMMs cannot make user namespaces; other users of the machine can")
    return Finding(
        "warning",
        "VMMs can make user namespaces",
        "set vmm.seccomp = enforce, or sysctl -w user.max_user_namespaces=0",
    )


def core_dumps(_: Settings) -> Finding:
    pattern = _value(SYSCTL / "kernel/core_pattern") or ""
    suid = _value(SYSCTL / "fs/suid_dumpable")
    if suid == "1":
        return Finding(
            "failed",
            "the kernel dumps also what may not be read (fs.suid_dumpable is 1): VMMs, too",
            "sysctl -w fs.suid_dumpable=0",
        )
    if suid == "2" and pattern.startswith("|"):
        return Finding(
            "warning",
            f"dumps of VMMs go to {pattern[1:].split()[0]}, for root (fs.suid_dumpable is 2)",
            "sysctl -w fs.suid_dumpable=0",
        )
    return Finding("ok", "VMMs and the service are never dumped")


def packet_filter(settings: Settings) -> Finding:
    network = settings.network
    ours = NetworkSettings(settings.run, network.prefix, network.subnet)
    name = host_table(ours)
    tables = command_output("nft", "list", "tables", "inet")
    if tables is None:
        return Finding("failed", "nft cannot list tables", "run it as root on this machine")
    if name in tables.split():
        return Finding("ok", f"the table {name} keeps guests from this machine and its networks")
    return Finding(
        "warning", f"there is no table {name}: no service has run", "microvmd serve makes it"
    )


def files(settings: Settings) -> Finding:
    """Keys, record and snapshots are for the service only."""
    if not settings.root.exists():
        return Finding("ok", f"there is nothing at {settings.root} yet")
    secret = [settings.root / name for name in (*SECRET_DIRECTORIES, *SECRET_FILES)]
    secret += (settings.root / "keys").glob("*")
    shown = [path for path in secret if path.exists() and path.stat().st_mode & 0o077]
    # A parent that nobody may pass through protects what lies in it.
    shown = [path for path in shown if not _closed(path, settings.root)]
    if shown:
        named = ", ".join(f"{_mode(path)} {path}" for path in shown)
        return Finding(
            "failed",
            f"others on this machine can look at {named}",
            f"chmod go-rwx {' '.join(map(str, shown))}",
        )
    return Finding("ok", f"keys, record and snapshots below {settings.root} are for nobody else")


def vmms(settings: Settings) -> Finding:
    """Every VMM that runs, by what the kernel shows of it."""
    looked_at, found = 0, []
    for microvm_id, pid in _running(NodePaths(settings.root)):
        try:
            flaws = jail_facts.flaws(pid)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        looked_at += 1
        found += [f"{microvm_id}: {flaw}" for flaw in flaws]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return Finding(
            "failed",
            "; ".join(found[:3]) + more,
            "suspend and resume it under this version of microvmd, or terminate it",
        )
    return Finding("ok", f"{looked_at} VMMs run, each in a jail without a flaw")


def api_address(settings: Settings) -> Finding:
    host = settings.api.host
    if _loopback(host):
        return Finding("ok", f"the API listens on {host} only")
    return Finding(
        "warning",
        f"the API listens on {host} without TLS: SigV4 protects the call, not what is in it",
        "put TLS in front of it and let it listen on 127.0.0.1 (api.host)",
    )


def certificates(settings: Settings) -> Finding:
    place = settings.root / "ca" / "edge.pem"
    if not place.exists():
        return Finding("ok", "there is no certificate yet: the service makes one")
    ends = x509.load_pem_x509_certificate(place.read_bytes()).not_valid_after_utc
    left = ends - datetime.now(UTC)
    if left < timedelta(0):
        return Finding(
            "failed", f"the edge's certificate ended on {ends:%Y-%m-%d}", "restart the service"
        )
    if left < SOON:
        return Finding("warning", f"the edge's certificate ends on {ends:%Y-%m-%d}", "see its log")
    return Finding("ok", f"the edge's certificate holds until {ends:%Y-%m-%d}")


def local_aws(settings: Settings) -> Finding:
    if settings.aws.local:
        return Finding(
            "warning",
            "S3, STS, IAM, logs and KMS are an emulation on this machine: its KMS keys are no "
            "protection against who has the disk",
            "set aws.local = false and the endpoints of real services (aws.*)",
        )
    return Finding("ok", "S3, STS, logs and KMS are services outside of this machine")


def build_isolation(settings: Settings) -> Finding:
    if settings.build.isolation == "microvm":
        return Finding("ok", "Dockerfiles run in microVMs of their own")
    return Finding(
        "warning",
        "Dockerfiles run in namespaces of this machine: for trusted ones only",
        "set build.isolation = microvm (MICROVMD_BUILD_ISOLATION)",
    )


CHECKS: Mapping[str, Check] = {
    "processor": processor,
    "processor threads": threads,
    "swap": swap,
    "page merging": merging,
    "kernel secrets": kernel_secrets,
    "system calls": filters,
    "user namespaces": user_namespaces,
    "core dumps": core_dumps,
    "packet filter": packet_filter,
    "files": files,
    "jails": vmms,
    "API address": api_address,
    "certificates": certificates,
    "local AWS": local_aws,
    "builds": build_isolation,
}


def _running(paths: NodePaths) -> Iterator[tuple[str, int]]:
    """Each MicroVM that has a VMM, and its pid."""
    if not paths.microvms.is_dir():
        return
    for directory in sorted(paths.microvms.iterdir()):
        record = VmmRecord.read(paths.microvm(directory.name).identity)
        if record is not None and record.identity.alive():
            yield directory.name, record.identity.pid


def _value(path: Path) -> str | None:
    """What a file of the kernel says; None where this kernel has none."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _closed(path: Path, root: Path) -> bool:
    between = [parent for parent in path.parents if parent.is_relative_to(root)]
    return any(not parent.stat().st_mode & 0o007 for parent in between)


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(os.stat(path).st_mode):04o}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
