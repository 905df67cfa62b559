"""The console over a real control plane, store and key ring; node and edge are in memory."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from starlette.applications import Starlette
from starlette.routing import Route

from microvmd.api.authenticate import Authenticator
from microvmd.api.credentials import Identity
from microvmd.api.handlers import control_handlers
from microvmd.api.rates import Rates
from microvmd.api.service import create_app
from microvmd.console.page import Page
from microvmd.control.admission import Admission
from microvmd.control.capacity import Capacity
from microvmd.control.events import Events
from microvmd.control.metering import Metering
from microvmd.control.tokens import TokenIssuer
from microvmd.edge.activity import Activity
from microvmd.messages.node_requests import LogLine, Vmm
from microvmd.model.capacity import CapacityRules
from microvmd.model.metering import Prices
from microvmd.model.rate import RateLimits
from microvmd.service.audit_log import MIB, AuditLimits, audit_log
from microvmd.service.console import console_pages
from microvmd.service.identity import Identities, identities
from microvmd.service.live import Live
from microvmd.service.routes.accounts import account_routes
from microvmd.service.routes.audit import audit_routes
from microvmd.service.routes.audited import audited
from microvmd.service.routes.events import event_routes
from microvmd.service.routes.extensions import extension_routes
from microvmd.service.routes.facts import LogLines, ServiceFacts
from microvmd.service.routes.limits import AccountLimits, limit_routes
from microvmd.service.routes.live import live_routes
from microvmd.service.routes.usage import usage_routes
from microvmd.settings.console import ConsoleSettings
from microvmd.settings.settings import Settings
from tests.unit.control.plane import ACCOUNT, REGION, Plane, PlayedMeter, plane

ORIGIN = "https://console.test"
OPERATOR = Identity("AKIAOPERATOR", "the-secret-of-the-operator", ACCOUNT)
ADMISSION = Admission(capacity=Capacity(CapacityRules(), PlayedMeter()))
KEPT = AuditLimits(True, 90, 16 * MIB)
SAME = {"sec-fetch-site": "same-origin", "origin": ORIGIN}
"""What a browser says of requests that a page of the console makes."""
_TOKEN = re.compile(r'name="csrf" value="([^"]+)"')


@dataclass
class ConsoleLab:
    """The application, and what stands behind it."""

    app: Starlette
    plane: Plane
    who: Identities
    live: Live
    logged: list[LogLine] = field(default_factory=list)
    """What every log holds."""
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def browser(self, source: str = "192.0.2.1") -> "Browser":
        """One that is not logged in yet."""
        transport = httpx.ASGITransport(self.app, client=(source, 1))
        client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        self.clients.append(client)
        return Browser(client)

    async def logged_in(self, key: Identity = OPERATOR) -> "Browser":
        browser = self.browser()
        answer = await browser.log_in(key.access_key, key.secret_key)
        assert answer.status_code == 303, answer.text
        return browser

    async def signed(self, method: str, path: str, key: Identity = OPERATOR) -> httpx.Response:
        """A request to one of the service's own routes, as the commands send it."""
        request = AWSRequest(method, f"{ORIGIN}/microvmd/v1{path}", data=b"")
        credentials = Credentials(key.access_key, key.secret_key, key.session_token)
        SigV4Auth(credentials, "lambda", REGION).add_auth(request)
        client = self.browser().client
        return await client.request(method, str(request.url), headers=dict(request.headers.items()))

    async def link(self, key: Identity = OPERATOR) -> str:
        """The path of a link that logs in once, below ``/console``."""
        answer = await self.signed("POST", "/console/links", key)
        return f"/login/{answer.json()['token']}"

    async def user(self, name: str, policy: str | None = None) -> Identity:
        """A user of the operator's account with a key, and this policy if any."""
        await self.who.accounts.create_user(ACCOUNT, name)
        if policy is not None:
            await self.who.accounts.put_policy(ACCOUNT, name, "own", policy)
        made = await self.who.accounts.create_key(ACCOUNT, name)
        return Identity(made.key.access_key, made.secret, ACCOUNT, user=name)

    async def temporary(self, minutes: float) -> Identity:
        """A key of the operator's that is good for so long; asked again, that is its time now."""
        ends = datetime.now(UTC) + timedelta(minutes=minutes)
        made = replace(
            OPERATOR,
            access_key="ASIATEMPORARY",
            session_token="of-the-session",
            expires_at=ends,
            issuer=OPERATOR.access_key,
        )
        await self.who.ring.learn(made)
        return made


@dataclass
class Browser:
    """Sends what a browser would send; follows no redirect by itself."""

    client: httpx.AsyncClient
    csrf: str = ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(f"/console{path}", headers=headers)

    async def post(
        self, path: str, fields: dict[str, str] | None = None, **headers: str
    ) -> httpx.Response:
        """A form of one of the console's own pages."""
        sent = {"csrf": self.csrf, **(fields or {})}
        return await self.client.post(f"/console{path}", data=sent, headers={**SAME, **headers})

    async def log_in(self, access_key: str, secret: str) -> httpx.Response:
        fields = {"access_key": access_key, "secret_key": secret}
        answer = await self.post("/login", fields)
        if answer.status_code == 303:
            found = _TOKEN.search((await self.get("/sessions")).text)
            assert found is not None
            self.csrf = found[1]
        return answer


@asynccontextmanager
async def console_lab(
    directory: Path,
    *,
    assets: Path | None = None,
    console: ConsoleSettings | None = None,
    more: Sequence[Page] = (),
    lines: LogLines | None = None,
    shells: Path | None = None,
    traffic: Callable[[], Awaitable[Mapping[str, Activity]]] | None = None,
    vmm_of: Callable[[str], Awaitable[Vmm | None]] | None = None,
    ask_edge: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[ConsoleLab]:
    """Everything in ``directory``; ``assets`` holds a folder of vendored files, if any; ``more``
    are pages of the test, ``lines`` are those of every log, ``shells`` is the bridge's socket,
    ``traffic`` and ``vmm_of`` are what `Live` looks at, ``ask_edge`` is the edge's health."""
    settings = Settings(
        root=directory,
        assets=assets or directory / "assets",
        account=ACCOUNT,
        region=REGION,
        console=console or ConsoleSettings(),
    )
    async with (
        plane(directory) as found,
        identities(found.store, directory / "keys", OPERATOR) as who,
        AsyncExitStack() as stack,
    ):
        logged: list[LogLine] = []

        async def played(
            group: str, stream: str | None, *, follow: bool
        ) -> AsyncGenerator[LogLine, None]:
            for line in logged:
                yield line

        authenticate = Authenticator(who.ring, REGION)
        facts = ServiceFacts(
            account=ACCOUNT,
            store=found.store,
            microvms=found.microvms,
            log_lines=lines or played,
            vmm_of=_no_vmm,
            ask_edge=ask_edge or _nothing,
        )
        live = Live(found.microvms.live, traffic or _no_traffic, vmm_of or _no_vmm, found.clock)
        events, metering = Events(found.store), Metering(found.store, Prices())
        audit = await stack.enter_async_context(audit_log(directory / "audit", KEPT))
        routes: list[Route] = [
            *extension_routes(facts, authenticate, who.authorizer),
            *live_routes(live, found.microvms, authenticate, who.authorizer),
            *event_routes(events, authenticate, who.authorizer),
            *usage_routes(metering, "USD", authenticate, who.authorizer, found.clock),
            *audit_routes(audit, authenticate, who.authorizer, ACCOUNT),
            *account_routes(who.accounts, authenticate, ACCOUNT),
            *limit_routes(_limits(found), authenticate, who.authorizer, ACCOUNT),
        ]
        told = audited(routes, audit, REGION)
        app = create_app(
            _handlers(found, directory / "keys"),
            who.ring,
            routes=told,
            authorize=who.authorizer,
            audit=audit,
            pages=console_pages(
                settings, who.ring, authenticate, told, audit, more=more, shells=shells
            ),
        )
        lab = ConsoleLab(app, found, who, live, logged)
        try:
            yield lab
        finally:
            for client in lab.clients:
                await client.aclose()


def _handlers(found: Plane, keys: Path) -> list[object]:
    return control_handlers(
        found.images,
        found.microvms,
        TokenIssuer(keys),
        connectors=found.connectors,
        managed=found.managed,
        endpoint_name=lambda endpoint_id: f"{endpoint_id}.test",
    )


async def _no_traffic() -> Mapping[str, Activity]:
    return {}


async def _no_vmm(_microvm_id: str) -> Vmm | None:
    return None


async def _nothing() -> None:
    return None


def _limits(found: Plane) -> AccountLimits:
    return AccountLimits(found.store, ADMISSION, RateLimits(), Rates(RateLimits()))
