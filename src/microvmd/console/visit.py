"""One request of somebody who looks at a page: who asks, what the page can do for them."""

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.websockets import WebSocket

from microvmd.api.audit import Audit, unaudited
from microvmd.api.credentials import Credentials, Identity
from microvmd.api.requests import RequestContext, read_body
from microvmd.console.inner import AGENT, Inner
from microvmd.console.logins import Attempts, Links
from microvmd.console.page import Section
from microvmd.console.sessions import Session, Sessions, Visitor
from microvmd.model.caller import Caller
from microvmd.model.errors import ValidationError

COOKIE = "__Host-microvmd-session"
"""Of this host alone: no page of an endpoint below a domain of ours can set it. Browsers take
``Secure`` on plain HTTP from 127.0.0.1 and localhost."""
THEME_COOKIE = "microvmd-theme"
THEMES = ("auto", "light", "dark")
FORM_LIMIT = 256 << 10
FORM_FIELDS = 1000


class Invoke(Protocol):
    """An operation of the API by name, for a user agent (``api/invoke.py``)."""

    async def __call__(
        self,
        context: RequestContext,
        name: str,
        request: Mapping[str, Any],
        agent: str = "",
        *,
        live: bool = False,
    ) -> dict[str, Any]:
        """Raises ApiError."""
        ...


class Artifacts(Protocol):
    """Where code artifacts go: S3, with the rights of who uploads. Errors are the API's."""

    @property
    def offered(self) -> bool:
        """Whether pages can upload here at all."""
        ...

    @property
    def limit(self) -> int:
        """Bytes of one archive."""
        ...

    @property
    def examples(self) -> Mapping[str, str]:
        """What each shipped example is, by name."""
        ...

    def file(self) -> AbstractAsyncContextManager[IO[bytes]]:
        """A place for one archive until it is put."""
        ...

    async def put(self, identity: Identity, name: str, archive: IO[bytes]) -> str:
        """The ``s3://`` URI."""
        ...

    async def put_example(self, identity: Identity, example: str) -> str:
        """The same for a shipped example."""
        ...


@dataclass(frozen=True, slots=True)
class Console:
    """Everything the pages stand on; made once."""

    invoke: Invoke
    inner: Inner
    credentials: Credentials
    sessions: Sessions
    links: Links
    attempts: Attempts
    templates: Environment
    artifacts: Artifacts
    memory_sizes: tuple[int, ...]
    """MiB of baseline memory that images may ask for."""
    region: str
    operator: str
    """The account whose root may end every session."""
    audit: Audit = unaudited
    """Told of each login."""
    shells: Path | None = None
    """The socket of the edge's shell bridge; None where there is none."""
    navigation: tuple[tuple[Section, str], ...] = ()
    clock: Callable[[], float] = time.time

    async def login(
        self, identity: Identity, source: str | None, agent: str
    ) -> tuple[str, Session]:
        """A session as this key."""
        caller = await self.credentials.caller(identity, self.now())
        visitor = Visitor(identity.access_key, identity.account, caller.arn, source, agent)
        return self.sessions.begin(visitor)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


@dataclass(frozen=True, slots=True)
class Known:
    """Who is logged in."""

    session: Session
    identity: Identity
    context: RequestContext


class Visit:
    """What a page's handler is given. ``section`` is the page's own in the navigation.

    ``live``: nobody but the page itself asks, again and again; what it reads is not recorded. A
    handler that shows something for the first time sets it to False.
    """

    def __init__(
        self,
        console: Console,
        request: Request,
        section: Section | None = None,
        known: Known | None = None,
        *,
        live: bool = False,
    ) -> None:
        self.console = console
        self.request = request
        self.section = section
        self.live = live
        self._known = known
        self._form: dict[str, list[str]] | None = None

    @property
    def known(self) -> Known:
        """Who asks. Pages that are open to all must not ask."""
        assert self._known is not None, "this page is open: nobody is logged in"
        return self._known

    @property
    def caller(self) -> Caller:
        caller = self.known.context.caller
        assert caller is not None
        return caller

    @property
    def is_operator(self) -> bool:
        return self.caller.is_root_of(self.console.operator)

    @property
    def is_part(self) -> bool:
        """Whether htmx asks, for a part of a page."""
        return self.request.headers.get("hx-request") == "true"

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        return self.request.query_params.get(name, default)

    async def ask(self, operation: str, **members: Any) -> dict[str, Any]:  # noqa: ANN401 - by shape
        """An operation of the API with the rights of who is logged in. Raises ApiError."""
        context = self.known.context
        return await self.console.invoke(context, operation, members, AGENT, live=self.live)

    async def service(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON of one of the service's own routes
        """One of the service's own routes, by its path below ``/microvmd/v1``. Raises Refused."""
        context = self.known.context
        return await self.console.inner.ask(context, method, path, query, body, live=self.live)

    def lines(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        """Such a route that answers line by line. Close what you do not read to its end."""
        return self.console.inner.lines(self.known.context, path, query, live=self.live)

    async def form(self) -> dict[str, list[str]]:
        """Fields of an urlencoded form, with all their values; read once."""
        if self._form is None:
            body = await read_body(self.request, FORM_LIMIT)
            try:
                pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS)
            except ValueError as error:
                raise ValidationError(f"The form cannot be read: {error}.") from error
            self._form = {}
            for name, value in pairs:
                self._form.setdefault(name, []).append(value.replace("\r\n", "\n"))
        return self._form

    async def field(self, name: str, default: str = "") -> str:
        """The last value of a field of the form."""
        return (await self.form()).get(name, [default])[-1]

    def notify(self, text: str, tone: str = "good") -> None:
        """Told on the next page."""
        self.known.session.notify(text, tone)

    def render(self, template: str, status: int = 200, **values: object) -> HTMLResponse:
        """A page, or a part of one."""
        theme = self.request.cookies.get(THEME_COOKIE, THEMES[0])
        known = self._known
        filled = self.console.templates.get_template(template).render(
            section=self.section,
            navigation=self.console.navigation,
            theme=theme if theme in THEMES else THEMES[0],
            here=self.request.url.path,
            session=None if known is None else known.session,
            caller=None if known is None else self.caller,
            notices=[] if known is None or self.is_part else known.session.taken_notices(),
            csrf="" if known is None else known.session.csrf,
            now=self.console.clock(),
            region=self.console.region,
            **values,
        )
        return HTMLResponse(filled, status_code=status)

    def go(self, path: str) -> Response:
        """To another page of the console, by its path below ``/console``."""
        if self.is_part:
            return Response(status_code=204, headers={"hx-redirect": f"/console{path}"})
        return RedirectResponse(f"/console{path}", status_code=303)


class SocketVisit:
    """What the handler of a WebSocket is given. ``again`` finds who is logged in once more."""

    def __init__(
        self,
        console: Console,
        socket: WebSocket,
        known: Known,
        again: Callable[[bool], Awaitable[Known | None]],
    ) -> None:
        self.console = console
        self.socket = socket
        self.known = known
        self.used = False
        """Whether the reader has done something since the last look: that keeps the session."""
        self._again = again

    def path(self, name: str) -> str:
        return str(self.socket.path_params[name])

    async def ask(self, operation: str, **members: Any) -> dict[str, Any]:  # noqa: ANN401 - by shape
        """An operation of the API with the rights of who is logged in. Raises ApiError."""
        return await self.console.invoke(self.known.context, operation, members, AGENT)

    async def still_known(self) -> bool:
        """False once the session has ended."""
        used, self.used = self.used, False
        return await self._again(used) is not None


def new_context(
    identity: Identity, caller: Caller, region: str, now: datetime, source: str | None
) -> RequestContext:
    """As of a signed request, with an id of its own."""
    return RequestContext(
        account=identity.account,
        region=region,
        access_key=identity.access_key,
        request_id=str(uuid.uuid4()),
        now=now,
        caller=caller,
        source_ip=source,
    )
