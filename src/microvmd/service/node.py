"""``microvmd node``: the one process with root, which runs machines for a service that has none.

It takes typed messages on a UNIX socket (``node/server.py``) and ends when the service that
commands it does; what runs goes on, and is adopted by the next.
"""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import structlog

from microvmd.build.service import ImageBuilder
from microvmd.model.egress import EgressMap
from microvmd.node import kernel
from microvmd.node.aws_access import AwsAccess
from microvmd.node.bring_up import Equipment
from microvmd.node.capacity import NodeMeter
from microvmd.node.cgroup import CgroupUnavailable
from microvmd.node.delivery import open_deliveries
from microvmd.node.jail import JailFailed, Jails, JailSettings
from microvmd.node.jail_root import JailRootFailed
from microvmd.node.kernel import KernelError
from microvmd.node.log_retention import forget_old_logs
from microvmd.node.logs import LogStore
from microvmd.node.network import NetworkPool
from microvmd.node.paths import NodePaths
from microvmd.node.policy import NodePolicy
from microvmd.node.roles import open_roles
from microvmd.node.server import NodeServer, refuse_all
from microvmd.node.slots import NetworkError, NetworkSettings
from microvmd.node.snapshot import Stamp
from microvmd.service import keeper
from microvmd.service import logs as own_log
from microvmd.service.accelerator import CACHE
from microvmd.service.aws import aws_access, source_settings
from microvmd.service.builds import build_options, cgroup_of
from microvmd.service.failure import Failure
from microvmd.service.keys import AccessKey, access_key
from microvmd.service.open_files import take_all
from microvmd.service.user import ROOT, ServiceUser, acting_as, prepare
from microvmd.service.vault import vault
from microvmd.settings.settings import Settings, load
from microvmd.vmm.accelerator import ProbeGuest, detect
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.choice import VmmUnfit, choose, choose_others
from microvmd.vmm.cores import leave_none
from microvmd.vmm.process import ProcessFailed

log = structlog.get_logger(__name__)

START_FAILURES = (
    NetworkError,
    KernelError,
    JailFailed,
    JailRootFailed,
    CgroupUnavailable,
    ProcessFailed,
    VmmUnfit,
)
LOCK = "node.lock"
LOCK_LIMIT_S = 60.0
LOCK_POLL_S = 0.05
RETENTION_RETRY_S = 60.0


def run_node(settings: Settings, fd: int | None = None) -> None:
    """Until the service that commands it ends, or SIGTERM. ``fd`` is a listening socket.

    Raises Failure when it cannot start.
    """
    own_log.configure()
    take_all()
    if os.geteuid() != ROOT:
        raise Failure("microvmd node needs root", "start it as a systemd service of root")
    user = ServiceUser.of_settings(settings)
    prepare(settings, user)
    with acting_as(user):
        key = access_key(settings.root / "keys")
    if fd is None:
        listener = keeper.bind(settings.run / keeper.SOCKET, user.gid)
    else:
        listener = socket.socket(fileno=fd)
    with listener, ungrouped():
        asyncio.run(_run(settings, key, user, listener))


async def _run(
    settings: Settings, key: AccessKey, user: ServiceUser, listener: socket.socket
) -> None:
    peers = frozenset({ROOT, user.uid})
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        try:
            await _lock(stack, settings.run / LOCK)
            equipment = await stack.enter_async_context(
                _equipment(settings, aws_access(settings, key))
            )
        except START_FAILURES as error:
            log.exception("node.failed")
            await refuse_all(listener, peers, str(error))
            raise Failure(str(error), "microvmd doctor says what this machine lacks") from error
        builder = ImageBuilder(
            equipment,
            source_settings(settings, key),
            lambda account: build_options(settings, equipment, account),
        )
        policy = NodePolicy(settings.region, settings.image.sizes, settings.network.egress_map)
        jails = equipment.jails
        meter = NodeMeter(equipment.paths, cgroup_of(settings), owner_of=jails.owner_of)
        server = NodeServer(equipment, builder, policy, meter, _networks, peers)
        await _serve_until(stopping, server, listener, settings)
        log.info("node.stopping")


async def _serve_until(
    stopping: asyncio.Event, server: NodeServer, listener: socket.socket, settings: Settings
) -> None:
    logs = server.equipment.paths.logs
    retention_s = settings.retention.log_days * 86400
    async with asyncio.TaskGroup() as tasks:
        forgetting = tasks.create_task(_forget_logs(logs, retention_s))
        serving = tasks.create_task(server.serve(listener))
        waiting = tasks.create_task(stopping.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (forgetting, serving, waiting):
            task.cancel()


async def _forget_logs(logs: Path, retention_s: float) -> None:
    """Run for ever, also on a disk that is full now and then."""
    while True:
        try:
            await forget_old_logs(logs, retention_s, time.time)
        except OSError as error:
            log.warning("logs.not_forgotten", error=str(error))
        await asyncio.sleep(RETENTION_RETRY_S)


def _networks() -> EgressMap:
    """The operator's mapping of now."""
    return load().network.egress_map


async def _lock(stack: AsyncExitStack, path: Path) -> None:
    """Wait until the node before us has let go of everything. Raises NetworkError."""
    file = stack.enter_context(path.open("w"))
    try:
        async with asyncio.timeout(LOCK_LIMIT_S):
            while not _locked(file.fileno()):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(LOCK_POLL_S)
    except TimeoutError:
        raise NetworkError(f"another microvmd node uses {path.parent}: end it") from None


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def _equipment(settings: Settings, access: AwsAccess) -> AsyncIterator[Equipment]:
    """The node's own resources."""
    paths = NodePaths(settings.root)
    guest = await asyncio.to_thread(kernel.prepare, settings.assets, settings.cache)
    accelerator = await detect(
        settings.vmm.accelerator,
        ProbeGuest(guest.vmlinux, guest.initrd, limit=settings.vmm.probe_seconds),
        settings.cache / CACHE,
    )
    log.info("node.accelerator", kind=accelerator.kind.value, reason=accelerator.reason)
    chosen = await choose(settings.vmm.wanted, accelerator, settings.assets)
    vmm = chosen.vmm
    log.info("node.vmm", name=vmm.name.value, version=vmm.version, reason=chosen.reason)
    offered = await choose_others(
        settings.vmm.wanted, settings.vmm.offered, vmm, accelerator, settings.assets
    )
    jails = await Jails.open(
        JailSettings(
            jailer=settings.assets / "microvmd-jailer",
            cache=settings.cache,
            group=cgroup_of(settings),
            first_uid=settings.vmm.uid_first,
            slots=settings.vmm.uid_count,
            surroundings=vmm.surroundings,
            seccomp=settings.vmm.seccomp,
        )
    )
    stamp = Stamp.of(accelerator, vmm)
    others = [Stamp.of(accelerator, one) for one in offered]
    async with AsyncExitStack() as stack:
        stack.enter_context(closing(jails))
        networks = await stack.enter_async_context(NetworkPool(_network_settings(settings)))
        logs = await stack.enter_async_context(LogStore(paths.logs))
        roles = await stack.enter_async_context(open_roles(access))
        deliveries = await stack.enter_async_context(
            open_deliveries(paths.delivery, logs, roles, access)
        )
        plain = await stack.enter_async_context(vault(settings, access, paths, stamp, others))
        own = Equipment(
            paths=paths,
            kernel=guest,
            accelerator=accelerator,
            vmm=vmm,
            networks=networks,
            jails=jails,
            logs=logs,
            stamp=stamp,
            vault=plain,
            host_cpus=os.cpu_count() or 1,
            roles=roles,
            deliveries=deliveries,
            pool=settings.pool_rules,
        )
        yield await own.offering(offered)


def _network_settings(settings: Settings) -> NetworkSettings:
    return NetworkSettings(
        run=settings.run,
        prefix=settings.network.prefix,
        subnet=settings.network.subnet,
        ready=settings.network.pool,
        resolvers=tuple(map(str, settings.network.dns)),
        connections=settings.network.connections,
        connection_rate=settings.network.connection_rate,
        bandwidth_mbit=settings.network.bandwidth_mbit,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """What the keeper starts."""
    parser = argparse.ArgumentParser(prog="microvmd-node")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args(argv)
    leave_none()
    try:
        run_node(Settings(**json.loads(options.settings.read_text())), options.fd)
    except Failure as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
