"""``microvmd serve``: wires control plane, node, edge and API into one process, and runs it.

Everything long-lived (VMMs, HAProxy, the local AWS server) is a process in a session of its own
and outlives this one. At start what the last process left is adopted or swept; at the end it is
detached, so that a restart ends no RUNNING MicroVM.
"""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Address

import structlog
import uvicorn
from starlette.types import ASGIApp

from microvmd.api.authenticate import Authenticator
from microvmd.api.connection import configure
from microvmd.api.credentials import Identity
from microvmd.api.handlers import control_handlers
from microvmd.api.listener import listen
from microvmd.api.local.relay import Relay
from microvmd.api.rates import Rates
from microvmd.api.service import create_app
from microvmd.build.service import ImageBuilder
from microvmd.cli import logs as own_log
from microvmd.cli import profile
from microvmd.cli.account_routes import account_routes
from microvmd.cli.aws import aws_access, source_settings
from microvmd.cli.builds import build_options, cgroup_of
from microvmd.cli.control_plane import ControlPlane, NodeLink, control_plane
from microvmd.cli.egress_routes import egress_routes
from microvmd.cli.endpoints import Endpoints
from microvmd.cli.event_routes import event_routes
from microvmd.cli.extensions import extension_routes
from microvmd.cli.facts import ServiceFacts
from microvmd.cli.failure import Failure
from microvmd.cli.identity import identities
from microvmd.cli.keys import AccessKey, access_key
from microvmd.cli.limit_routes import AccountLimits, limit_routes
from microvmd.cli.local_aws import local_aws
from microvmd.cli.network_reload import reload_networks
from microvmd.cli.role_check import role_check
from microvmd.cli.settings import Settings
from microvmd.cli.vault import vault
from microvmd.control.events import Events, forget_old_events
from microvmd.control.insist import insist
from microvmd.control.keys import KeyGate
from microvmd.control.microvms import MicroVms
from microvmd.control.reconcile import adopt_all, inventory, watch
from microvmd.control.retention import forget_ended
from microvmd.control.roles import AssumableRoles
from microvmd.control.sealing import SecretsLocked
from microvmd.control.store import Store
from microvmd.control.tokens import TokenIssuer
from microvmd.control.webhooks import delivering
from microvmd.edge.config import EdgeLimits, EdgeSettings
from microvmd.edge.edge import Edge
from microvmd.edge.haproxy import HAProxyFailed
from microvmd.edge.stats import CommandFailed
from microvmd.model.microvm import Phase
from microvmd.node import kernel
from microvmd.node.agent import NodeAgent
from microvmd.node.aws_access import AwsAccess, Threads
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
from microvmd.node.paths import LONGEST_ROOT, NodePaths
from microvmd.node.roles import open_roles
from microvmd.node.slots import NetworkError, NetworkSettings
from microvmd.node.snapshot import Stamp
from microvmd.vmm.accelerator import ProbeGuest, detect
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.process import ProcessFailed
from microvmd.vmm.qemu import installed_version

log = structlog.get_logger(__name__)

START_FAILURES = (
    HAProxyFailed,
    NetworkError,
    KernelError,
    JailFailed,
    JailRootFailed,
    CgroupUnavailable,
    ProcessFailed,
    SecretsLocked,
)
ROTATE_INTERVAL_S = 60.0
GRACE_S = 2
"""Seconds for requests in flight at the end; one that follows a log would never end by itself."""


def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises Failure when it cannot start."""
    own_log.configure()
    if os.geteuid() != 0:
        raise Failure("microvmd serve needs root", "start it with sudo or as a systemd service")
    if len(os.fsencode(settings.root)) > LONGEST_ROOT:
        raise Failure(
            f"the path of the root, {settings.root}, is too long for sockets below it",
            f"give a --root of at most {LONGEST_ROOT} characters",
        )
    with _only_one(settings):
        try:
            with ungrouped():
                asyncio.run(_serve(settings))
        except START_FAILURES as error:
            log.exception("serve.failed")
            raise Failure(str(error), "microvmd doctor says what this machine lacks") from error


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Two services over one root would end each other's MicroVMs."""
    settings.root.mkdir(parents=True, exist_ok=True)
    with (settings.root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                f"another microvmd serve uses {settings.root}",
                "stop it, or give this one another --root",
            ) from None
        yield


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        app = await _assemble(stack, settings)
        await _listen_until(stopping, app, settings)
        log.info("serve.stopping")


async def _assemble(stack: AsyncExitStack, settings: Settings) -> ASGIApp:
    """Everything but the API's socket, ready to serve."""
    key = access_key(settings.root / "keys")
    store = await stack.enter_async_context(Store.at(settings.root / "state.db"))
    access = aws_access(settings, key)
    equipment = await stack.enter_async_context(_equipment(settings, access))
    issuer = TokenIssuer(settings.root / "keys")
    endpoints, link = Endpoints(), NodeLink()
    meter = NodeMeter(equipment.paths, cgroup_of(settings))
    edge = Edge(
        _edge_settings(settings),
        resolve=endpoints.locate,
        shells=endpoints.shells,
        keys=issuer.keys,
    )
    threads = stack.enter_context(Threads("roles", 2))
    roles = AssumableRoles(role_check(settings, key, equipment.roles.sts, threads))
    control = await stack.enter_async_context(
        control_plane(settings, store, link, edge.routes, roles, KeyGate(link.check_keys), meter)
    )
    microvms = endpoints.microvms = control.microvms
    builder = ImageBuilder(
        equipment,
        source_settings(settings, key),
        lambda account: build_options(settings, equipment, account),
    )
    link.agent = await stack.enter_async_context(NodeAgent(equipment, builder, control.report))
    endpoints.agent = link.agent
    await link.agent.sweep(await inventory(control.images, microvms))
    await stack.enter_async_context(edge)
    await edge.routes.replace(_running(microvms))
    await adopt_all(microvms, link)
    await control.connectors.go_on_after_restart()
    webhooks = [receiver.webhook for receiver in settings.events.webhooks]
    await stack.enter_async_context(delivering(store, webhooks, time.time))
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    kept, logs = settings.retention, equipment.paths.logs
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "watch": lambda: watch(microvms, lambda: _bytes_of(edge), time.time),
        "rotate": lambda: _rotate(issuer),
        "forget ended": lambda: forget_ended(store, kept.terminated_hours * 3600, time.time),
        "forget events": lambda: forget_old_events(store, kept.event_days * 86400, time.time),
        "forget logs": lambda: forget_old_logs(logs, kept.log_days * 86400, time.time),
    }
    for name, loop in loops.items():
        stack.callback(tasks.create_task(insist(loop, name)).cancel)
    profile.write(_profile(settings, key), profile.AwsFiles.of_user())
    facts = _facts(settings, store, microvms, equipment, edge)
    handlers = control_handlers(
        control.images,
        microvms,
        issuer,
        connectors=control.connectors,
        managed=control.managed,
        endpoint_name=edge.endpoint,
    )
    return await _application(stack, settings, key, handlers, facts, control)


def _facts(
    settings: Settings, store: Store, microvms: MicroVms, equipment: Equipment, edge: Edge
) -> ServiceFacts:
    return ServiceFacts(
        account=settings.account,
        store=store,
        microvms=microvms,
        log_store=equipment.logs,
        vmm_of=lambda microvm_id: equipment.vmm_of(equipment.paths.microvm(microvm_id)),
        ask_edge=edge.activity,
    )


async def _application(
    stack: AsyncExitStack,
    settings: Settings,
    key: AccessKey,
    handlers: list[object],
    facts: ServiceFacts,
    control: ControlPlane,
) -> ASGIApp:
    aws = None
    if settings.aws.local:
        aws = await stack.enter_async_context(
            local_aws(
                settings.run,
                settings.root / "local-aws.log",
                log_mib=settings.aws.local_log_mib,
            )
        )
    operator = Identity(key.access_key, key.secret_key, settings.account)
    who = await stack.enter_async_context(identities(facts.store, settings.root / "keys", operator))
    relay = None
    if aws is not None:
        relay = Relay(aws.socket, who.ring, settings.account)
        who.ring.roles = relay.iam
    authenticate = Authenticator(who.ring, settings.region)
    limits = settings.limits.rates
    rates = Rates(limits)
    account_limits = AccountLimits(facts.store, control.admission, limits, rates)
    routes = [
        *extension_routes(facts, authenticate, who.authorizer),
        *event_routes(Events(facts.store), authenticate, who.authorizer),
        *account_routes(who.accounts, authenticate, settings.account),
        *limit_routes(account_limits, authenticate, who.authorizer, settings.account),
        *egress_routes(
            control.egress,
            authenticate,
            who.authorizer,
            settings.account,
            lambda: reload_networks(control),
        ),
    ]
    return create_app(
        handlers,
        who.ring,
        relay,
        region=settings.region,
        routes=routes,
        authorize=who.authorizer,
        rates=rates,
    )


@asynccontextmanager
async def _equipment(settings: Settings, access: AwsAccess) -> AsyncIterator[Equipment]:
    """The node's own resources."""
    paths = NodePaths(settings.root)
    paths.make()
    settings.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    settings.cache.mkdir(parents=True, exist_ok=True)
    guest = await asyncio.to_thread(kernel.prepare, settings.assets, settings.cache)
    accelerator = await detect(
        settings.vmm.accelerator,
        ProbeGuest(guest.vmlinux, guest.initrd),
        settings.cache / "accelerator.json",
    )
    log.info("serve.accelerator", kind=accelerator.kind.value, reason=accelerator.reason)
    jails = await Jails.open(
        JailSettings(
            jailer=settings.assets / "microvmd-jailer",
            cache=settings.cache,
            group=cgroup_of(settings),
            first_uid=settings.vmm.uid_first,
            slots=settings.vmm.uid_count,
            seccomp=settings.vmm.seccomp,
        )
    )
    stamp = Stamp.of(accelerator, await installed_version())
    async with (
        NetworkPool(_network_settings(settings)) as networks,
        LogStore(paths.logs) as logs,
        open_roles(access) as roles,
        open_deliveries(paths.delivery, logs, roles, access) as deliveries,
        vault(settings, access, paths, stamp) as plain,
    ):
        yield Equipment(
            paths=paths,
            kernel=guest,
            accelerator=accelerator,
            networks=networks,
            jails=jails,
            logs=logs,
            stamp=stamp,
            vault=plain,
            host_cpus=os.cpu_count() or 1,
            roles=roles,
            deliveries=deliveries,
        )


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


def _edge_settings(settings: Settings) -> EdgeSettings:
    port = settings.edge.port
    loopback = IPv4Address(settings.edge.host).is_loopback
    return EdgeSettings(
        root=settings.root,
        run=settings.run,
        region=settings.region,
        domain=settings.edge.domain,
        port=None if port == "auto" else int(port),
        addresses=(settings.edge.host, "::1") if loopback else (settings.edge.host,),
        shells=settings.edge.shells,
        limits=EdgeLimits(
            connections_per_vcpu=settings.edge.connections_per_vcpu,
            streams_per_vcpu=settings.edge.streams_per_vcpu,
            requests_per_vcpu=settings.edge.requests_per_vcpu,
            connections_per_source=settings.edge.connections_per_source,
            refusals_per_source=settings.edge.refusals_per_source,
        ),
    )


def _profile(settings: Settings, key: AccessKey) -> profile.Profile:
    return profile.Profile(
        name=settings.profile,
        endpoint_url=settings.api.url,
        region=settings.region,
        access_key_id=key.access_key,
        secret_access_key=key.secret_key,
    )


def _running(microvms: MicroVms) -> dict[str, str]:
    return {
        microvm.endpoint_id: microvm.edge_address
        for microvm in microvms.live()
        if microvm.phase is Phase.RUNNING and microvm.edge_address is not None
    }


async def _bytes_of(edge: Edge) -> Mapping[str, int]:
    """Bytes by endpoint id, in the shape that the control plane asks for."""
    try:
        found = await edge.activity()
    except CommandFailed as error:
        raise OSError(str(error)) from error
    return {endpoint_id: seen.bytes_total for endpoint_id, seen in found.items()}


async def _rotate(issuer: TokenIssuer) -> None:
    while True:
        issuer.rotate()
        await asyncio.sleep(ROTATE_INTERVAL_S)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: serve must detach what runs before it ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _listen_until(stopping: asyncio.Event, app: ASGIApp, settings: Settings) -> None:
    try:
        listener = listen(settings.api.host, settings.api.port)
    except OSError as error:
        raise Failure(
            f"cannot listen on {settings.api.url}: {error.strerror}",
            "stop what uses the port, or choose another with --api-port",
        ) from error
    with listener:
        server = _Server(configure(app, timeout_graceful_shutdown=GRACE_S))
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]))
            log.info("serve.ready", url=settings.api.url, profile=settings.profile)
            waiting = tasks.create_task(stopping.wait())
            await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            waiting.cancel()
