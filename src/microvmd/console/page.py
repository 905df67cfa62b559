"""What a page is made of: its place in the navigation and its routes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from microvmd.console.visit import SocketVisit, Visit

Show = Callable[["Visit"], Awaitable[Response]]
Converse = Callable[["SocketVisit"], Awaitable[None]]


class Section(StrEnum):
    """The navigation, in its order. One that no page claims is not shown."""

    MICROVMS = "MicroVMs"
    IMAGES = "Images"
    CONNECTORS = "Connectors"
    ACCESS = "Access"
    USAGE = "Usage & limits"
    NODES = "Nodes & health"
    EVENTS = "Events"


@dataclass(frozen=True, slots=True)
class PageRoute:
    """One path below ``/console`` and one method.

    ``live``: a page asks by itself and not its reader, so it keeps no session alive, and what it
    reads is not recorded. ``open``: without a login. ``raw``: the handler reads the body itself, so
    the CSRF token must be in the header and not in a form.
    """

    path: str
    show: Show
    method: str = "GET"
    live: bool = False
    open: bool = False
    raw: bool = False


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """One path below ``/console`` for WebSockets of who is logged in; ``converse`` accepts and
    closes them."""

    path: str
    converse: Converse


@dataclass(frozen=True, slots=True)
class Page:
    """What a module of ``console/pages`` gives as ``PAGE``.

    ``section`` is where the navigation shows it, with a link to its first route; None is nowhere.
    Not ``listed`` is a page below another one of its section.
    """

    routes: tuple[PageRoute, ...]
    section: Section | None = None
    sockets: tuple[SocketRoute, ...] = ()
    listed: bool = True
