"""Wires the console: what its pages ask for, and the routes that ``microvmd console`` asks."""

import time
from collections.abc import Sequence
from pathlib import Path

from starlette.routing import BaseRoute, Router

from microvmd.api.audit import Audit, unaudited
from microvmd.api.authenticate import Authenticator
from microvmd.api.credentials import Credentials
from microvmd.api.invoke import Invoke
from microvmd.api.service import Pages
from microvmd.console.app import console_routes, navigation_of
from microvmd.console.assets import Assets
from microvmd.console.inner import Inner
from microvmd.console.logins import Attempts, Links
from microvmd.console.looks import environment
from microvmd.console.page import Page
from microvmd.console.pages import all_pages
from microvmd.console.sessions import Sessions
from microvmd.console.visit import Console
from microvmd.service.artifacts import EXAMPLES, Artifacts
from microvmd.service.routes.audited import audited
from microvmd.service.routes.console import login_routes
from microvmd.settings.settings import Settings

VENDORED = "console"
"""Directory of the assets with the files of others (scripts of pages)."""


def read_by_pages(settings: Settings) -> list[Path]:
    """Directories outside the code that pages read, of those that are there."""
    return [path for path in (settings.assets / VENDORED, EXAMPLES) if path.is_dir()]


def console_pages(
    settings: Settings,
    credentials: Credentials,
    authenticate: Authenticator,
    routes: Sequence[BaseRoute],
    audit: Audit = unaudited,
    more: Sequence[Page] = (),
    shells: Path | None = None,
) -> Pages | None:
    """What ``create_app`` makes pages with; None where the operator wants none.

    ``routes`` are the service's own, which pages may ask too; ``more`` are pages beside those of
    the package; ``shells`` is the socket of the edge's shell bridge.
    """
    if not settings.console.enabled:
        return None

    def pages(invoke: Invoke) -> list[BaseRoute]:
        found = [*all_pages(), *more]
        assets = Assets(settings.assets / VENDORED)
        kept = settings.console
        console = Console(
            invoke=invoke.named,
            inner=Inner(Router(list(routes))),
            credentials=credentials,
            sessions=Sessions(kept.idle_minutes * 60, kept.session_hours * 3600, time.time),
            links=Links(time.time),
            attempts=Attempts(time.time),
            templates=environment(assets),
            artifacts=Artifacts(settings),
            memory_sizes=settings.image.sizes.offered,
            region=settings.region,
            operator=settings.account,
            audit=audit,
            shells=shells,
            navigation=navigation_of(found),
        )
        own = login_routes(console.sessions, console.links, authenticate, settings.account)
        return [*audited(own, audit, settings.region), *console_routes(console, found, assets)]

    return pages
