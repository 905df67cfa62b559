"""``microvmd serve``: wires control plane, edge and API into one process without root, and runs it.

Started as root it leaves root to a node (``service/node.py``), which a keeper starts again when it
dies, and gives root up itself before it does anything else. Everything long-lived (VMMs, HAProxy,
the local AWS server) is a process in a session of its own and outlives this one: at start what the
last process left is adopted or swept; at the end it is detached, so that a restart ends no RUNNING
MicroVM.
"""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

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
from microvmd.control.insist import insist
from microvmd.control.keys import KeyGate
from microvmd.control.microvms import MicroVms
from microvmd.control.reconcile import watch
from microvmd.control.retention import forget_ended
from microvmd.control.roles import AssumableRoles
from microvmd.control.sealing import SecretsLocked
from microvmd.control.store import Store
from microvmd.control.tokens import TokenIssuer
from microvmd.edge.activity import Activity
from microvmd.edge.config import EdgeLimits, EdgeSettings
from microvmd.edge.edge import Edge
from microvmd.edge.haproxy import HAProxyFailed
from microvmd.edge.stats import CommandFailed
from microvmd.model.microvm import Phase
from microvmd.node.aws_access import Threads
from microvmd.node.paths import LONGEST_ROOT
from microvmd.node.roles import BotoSts
from microvmd.service import keeper, profile
from microvmd.service import logs as own_log
from microvmd.service.accelerator import told_accelerator
from microvmd.service.aws import aws_access
from microvmd.service.console import console_pages, read_by_pages
from microvmd.service.control_plane import ControlPlane, control_plane
from microvmd.service.endpoints import Endpoints
from microvmd.service.failure import Failure
from microvmd.service.first_answers import trace_first_answers
from microvmd.service.identity import identities
from microvmd.service.keys import AccessKey, access_key
from microvmd.service.live import Live
from microvmd.service.local_aws import local_aws
from microvmd.service.network_reload import reload_networks
from microvmd.service.node_client import NodeClient, NodeUnavailable
from microvmd.service.node_meter import MeterClient
from microvmd.service.observing import Observing
from microvmd.service.open_files import take_all
from microvmd.service.reach import open_way
from microvmd.service.role_check import role_check
from microvmd.service.routes.accounts import account_routes
from microvmd.service.routes.audited import audited
from microvmd.service.routes.egress import egress_routes
from microvmd.service.routes.extensions import extension_routes
from microvmd.service.routes.facts import ServiceFacts
from microvmd.service.routes.limits import AccountLimits, limit_routes
from microvmd.service.routes.live import live_routes
from microvmd.service.traces import exported
from microvmd.service.user import (
    CODE,
    ROOT,
    ServiceUser,
    acting_as,
    give_up_root,
    needs_low_port,
    prepare,
)
from microvmd.settings.settings import Settings
from microvmd.vmm.causes import ungrouped
from microvmd.vmm.process import ProcessFailed

log = structlog.get_logger(__name__)

START_FAILURES = (
    HAProxyFailed,
    ProcessFailed,
    SecretsLocked,
)
SETTINGS_FILE = "node.json"
ROTATE_INTERVAL_S = 60.0
NICER = 5
GRACE_S = 2
"""Seconds for requests in flight at the end; one that follows a log would never end by itself."""


def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises Failure when it cannot start."""
    own_log.configure()
    take_all()
    if len(os.fsencode(settings.root)) > LONGEST_ROOT:
        raise Failure(
            f"the path of the root, {settings.root}, is too long for sockets below it",
            f"give a --root of at most {LONGEST_ROOT} characters",
        )
    user = ServiceUser.of_settings(settings)
    if os.geteuid() == ROOT:
        prepare(settings, user)
    with _only_one(settings, user):
        with acting_as(user):
            key = access_key(settings.root / "keys")
        _write_profile(settings, key)
        try:
            with ungrouped():
                asyncio.run(_serve(settings, key, user))
        except (*START_FAILURES, NodeUnavailable) as error:
            log.exception("serve.failed")
            raise Failure(str(error), "microvmd doctor says what this machine lacks") from error


@contextmanager
def _only_one(settings: Settings, user: ServiceUser) -> Iterator[None]:
    """Two services over one root would end each other's MicroVMs."""
    with acting_as(user):
        path = settings.root / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Failure(
            f"another microvmd serve uses {settings.root}",
            "stop it, or give this one another --root",
        ) from None
    finally:
        os.close(fd)


def _write_profile(settings: Settings, key: AccessKey) -> None:
    """For the user who starts the service: before that user's rights are given up."""
    try:
        profile.write(_profile(settings, key), profile.AwsFiles.of_user())
    except OSError as error:
        log.warning("serve.no_profile", error=str(error))


async def _serve(settings: Settings, key: AccessKey, user: ServiceUser) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        if os.geteuid() == ROOT:
            await _part_with_root(stack, settings, user)
        app = await _assemble(stack, settings, key)
        await _listen_until(stopping, app, settings)
        log.info("serve.stopping")


async def _part_with_root(stack: AsyncExitStack, settings: Settings, user: ServiceUser) -> None:
    """Leave root to a node, and give it up. Nothing else runs in this process yet."""
    listener = keeper.bind(settings.run / keeper.SOCKET, user.gid)
    await stack.enter_async_context(keeper.kept(listener, _node_settings(settings)))
    _go_first()
    open_way([*CODE, *read_by_pages(settings)], user)
    give_up_root(user, low_port=needs_low_port(settings))
    log.info("serve.user", name=user.name, uid=os.getuid())


def _go_first() -> None:
    """The edge and the control plane, and what they start, go before guests where processors are
    short; the node, which is started already, and its VMMs do not."""
    try:
        os.nice(-NICER)
    except OSError as error:
        log.warning("serve.not_nicer", error=str(error))


def _node_settings(settings: Settings) -> Path:
    """A file with our settings, which flags may have changed; only root can write there."""
    path = settings.run / SETTINGS_FILE
    fresh = path.with_suffix(".new")
    fresh.write_text(settings.model_dump_json())
    fresh.rename(path)
    return path


async def _assemble(stack: AsyncExitStack, settings: Settings, key: AccessKey) -> ASGIApp:
    """Everything but the API's socket, ready to serve."""
    await stack.enter_async_context(exported(settings.traces))
    store = await stack.enter_async_context(Store.at(settings.root / "state.db"))
    issuer = TokenIssuer(settings.root / "keys")
    endpoints, link = Endpoints(), NodeClient(settings.run / keeper.SOCKET)
    meter = MeterClient(settings.run / keeper.SOCKET, lambda: link.state == "ok")
    observing = Observing(settings, store, lambda: _traffic(edge), meter)
    edge = Edge(
        edge_settings(settings),
        resolve=endpoints.locate,
        shells=endpoints.shells,
        keys=issuer.keys,
    )
    threads = stack.enter_context(Threads("roles", 2))
    sts = BotoSts(aws_access(settings, key), threads)
    roles = AssumableRoles(role_check(settings, key, sts, threads))
    control = await stack.enter_async_context(
        control_plane(
            settings,
            store,
            link,
            edge.routes,
            roles,
            KeyGate(link.check_keys),
            meter,
            observing.metrics.reported,
        )
    )
    microvms = endpoints.microvms = control.microvms
    endpoints.node = link.open_shell
    link.bind(control)
    await link.open()
    await stack.enter_async_context(edge)
    await edge.routes.replace(_running(microvms))
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    kept = settings.retention
    live = Live(microvms.live, lambda: _traffic(edge), link.vmm)
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "node": link.supervise,
        "trace first answers": lambda: trace_first_answers(microvms, lambda: _traffic(edge)),
        "watch": lambda: watch(microvms, lambda: _bytes_of(edge), time.time),
        "rotate": lambda: _rotate(issuer),
        "look at what lives": live.run,
        "forget ended": lambda: forget_ended(store, kept.terminated_hours * 3600, time.time),
        **observing.loops(),
    }
    for name, loop in loops.items():
        stack.callback(tasks.create_task(insist(loop, name)).cancel)
    await link.ready.wait()
    facts = _facts(settings, store, microvms, link, edge)
    handlers = control_handlers(
        control.images,
        microvms,
        issuer,
        connectors=control.connectors,
        managed=control.managed,
        endpoint_name=edge.endpoint,
    )
    return await _application(stack, settings, key, handlers, facts, control, link, observing, live)


def _facts(
    settings: Settings, store: Store, microvms: MicroVms, link: NodeClient, edge: Edge
) -> ServiceFacts:
    return ServiceFacts(
        account=settings.account,
        store=store,
        microvms=microvms,
        log_lines=link.lines,
        vmm_of=link.vmm,
        node_state=lambda: link.state,
        ask_edge=edge.activity,
    )


async def _application(
    stack: AsyncExitStack,
    settings: Settings,
    key: AccessKey,
    handlers: list[object],
    facts: ServiceFacts,
    control: ControlPlane,
    link: NodeClient,
    observing: Observing,
    live: Live,
) -> ASGIApp:
    aws = None
    if settings.aws.local:
        aws = await stack.enter_async_context(
            local_aws(
                settings.run / "aws",
                settings.root / "local-aws.log",
                log_mib=settings.aws.local_log_mib,
                s3_mib=settings.aws.local_s3_mib,
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
    account_limits = AccountLimits(
        facts.store, control.admission, limits, rates, lambda: told_accelerator(settings)
    )
    audit = await stack.enter_async_context(observing.audit())
    own = [
        *extension_routes(facts, authenticate, who.authorizer),
        *observing.routes(authenticate, who.authorizer, facts.microvms, audit),
        *live_routes(live, facts.microvms, authenticate, who.authorizer),
        *account_routes(who.accounts, authenticate, settings.account),
        *limit_routes(account_limits, authenticate, who.authorizer, settings.account),
        *egress_routes(
            control.egress,
            authenticate,
            who.authorizer,
            settings.account,
            lambda: reload_networks(control, link.reload_networks),
        ),
    ]
    routes = audited(own, audit, settings.region)
    return create_app(
        handlers,
        who.ring,
        relay,
        region=settings.region,
        routes=routes,
        authorize=who.authorizer,
        rates=rates,
        observe=observing.metrics.answered,
        audit=audit,
        pages=console_pages(
            settings,
            who.ring,
            authenticate,
            routes,
            audit,
            shells=edge_settings(settings).files.shell_socket,
        ),
    )


def edge_settings(settings: Settings) -> EdgeSettings:
    """What the edge is told of the settings."""
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


async def _traffic(edge: Edge) -> Mapping[str, Activity]:
    """By endpoint id. Raises OSError when the edge does not answer."""
    try:
        return await edge.activity()
    except CommandFailed as error:
        raise OSError(str(error)) from error


async def _bytes_of(edge: Edge) -> Mapping[str, int]:
    """Bytes by endpoint id, in the shape that the control plane asks for."""
    found = await _traffic(edge)
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
