"""Takes what browsers report of the content security policy: a few, short, into the log.

A report is a fault of ours or an attack; nobody is asked who they are before they may tell.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from microvmd.api.requests import read_body
from microvmd.console.defence import REPORTS
from microvmd.model.errors import ApiError
from microvmd.model.rate import Bucket, Rate

REPORT_LIMIT = 16 << 10
REPORTS_PER_SECOND = 1.0
TEXT_LIMIT = 200
_MEMBERS = ("effective-directive", "blocked-uri", "document-uri", "source-file", "line-number")
_log = structlog.get_logger("microvmd.console")


@dataclass(slots=True)
class Reports:
    """The end of the way. ``clock`` gives seconds that never go back."""

    clock: Callable[[], float] = time.monotonic
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(Rate(REPORTS_PER_SECOND), self.clock())

    async def take(self, request: Request) -> Response:
        """Always the same answer: whoever reports learns nothing."""
        try:
            self._bucket.ask(self.clock())
            shown = _shown(await read_body(request, REPORT_LIMIT))
        except ApiError:
            return Response(status_code=204)
        _log.warning("console.policy_broken", **shown)
        return Response(status_code=204)


def report_route() -> Route:
    """Below ``/console``."""
    return Route(f"/{REPORTS.rpartition('/')[2]}", Reports().take, methods=["POST"])


def _shown(body: bytes) -> dict[str, str]:
    try:
        report: Any = json.loads(body)["csp-report"]
        return {
            name.replace("-", "_"): str(report[name])[:TEXT_LIMIT]
            for name in _MEMBERS
            if name in report
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return {"unreadable": repr(body[:TEXT_LIMIT])}
