"""Templates and what they can say: ages, sizes, tones. Every value that is filled in is escaped."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from microvmd.console.assets import Assets

TEMPLATES = Path(__file__).parent / "templates"
_HTMX = {
    "includeIndicatorStyles": False,
    "allowEval": False,
    "allowScriptTags": False,
    "selfRequestsOnly": True,
    "historyCacheSize": 0,
    # A refusal is a notice: it takes the place of notices and leaves the page as it is.
    "responseHandling": [
        {"code": "204", "swap": False},
        {"code": "[23]..", "swap": True},
        {"code": "[45]..", "swap": True, "error": True, "target": "#notices"},
    ],
}
_TONES: Mapping[str, frozenset[str]] = {
    "good": frozenset({"RUNNING", "CREATED", "UPDATED", "ACTIVE", "SUCCESSFUL", "AVAILABLE", "ok"}),
    "busy": frozenset(
        {
            *("PENDING", "CREATING", "UPDATING", "IN_PROGRESS", "DELETING"),
            *("SUSPENDING", "RESUMING", "TERMINATING", "ENDING"),
        }
    ),
    "idle": frozenset({"SUSPENDED", "INACTIVE", "DEPRECATED"}),
    "bad": frozenset({"FAILED", "CREATE_FAILED", "UPDATE_FAILED", "DELETE_FAILED", "RECALLED"}),
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def environment(assets: Assets) -> Environment:
    """All templates, compiled: nothing is read from the disk when a page is shown."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in (ago, moment, clock, size, tone):
        made.filters[each.__name__] = each
    made.filters |= {"json": as_json, "pretty": as_lines}
    made.globals |= {"asset": assets.url, "htmx_config": as_json(_HTMX)}
    for name in made.list_templates():
        made.get_template(name)
    return made


def ago(then: float | str, now: float | None = None) -> str:
    """``3 min``: how long ago, in the largest unit that it fills. ``then`` as the API gives it."""
    passed = max(0.0, (now or datetime.now(UTC).timestamp()) - _seconds(then))
    for length, unit in _UNITS:
        if passed >= length:
            return f"{int(passed // length)} {unit}"
    return f"{int(passed)} s"


def moment(then: float | str) -> str:
    """The full time, UTC."""
    return datetime.fromtimestamp(_seconds(then), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(then: float | str) -> str:
    """The time of the day, UTC, for lines of a log."""
    return datetime.fromtimestamp(_seconds(then), UTC).strftime("%H:%M:%S")


def size(count: float | None) -> str:
    """Bytes in the unit that a person would choose."""
    if count is None:
        return "-"
    for unit, number in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= number:
            return f"{count / number:.1f} {unit}"
    return f"{int(count)} B"


def tone(state: str | None) -> str:
    """The class of a state's dot; ``off`` for what is over or not known."""
    return next((name for name, states in _TONES.items() if state in states), "off")


def as_json(value: object) -> str:
    """For an attribute; escaped like any other text there."""
    return json.dumps(value, separators=(",", ":"))


def as_lines(value: object) -> str:
    """For readers: one member a line, in its own letters."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _seconds(then: float | str) -> float:
    return datetime.fromisoformat(then).timestamp() if isinstance(then, str) else float(then)
