"""DNS names that an operator allows: patterns, and whether a name is one of them.

A pattern is a name, or ``*.`` and a name, which stands for every name below it at any depth and
not for the name itself. Names are in lower case, of ASCII and without a dot at the end: two ways
to write one name must never be judged apart.
"""

import re
from collections.abc import Iterator

LONGEST = 253
WILDCARD = "*."
WILD_LABELS = 4
WILD_LENGTH = 80
"""What a ``*`` may stand for: labels, and characters in all. Whoever owns the zone can read the
names that are asked for, so they are a way out for data."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def parse_pattern(text: str) -> str:
    """The pattern in its one form. Raise ValueError for what is none."""
    if not text.isascii():
        raise ValueError(f"{text!r}: write a name with other letters in its xn-- form")
    wild = WILDCARD if text.startswith(WILDCARD) else ""
    name = normal(text.removeprefix(wild))
    if name is None:
        raise ValueError(f"{text!r} is neither a name such as pypi.example nor *. and a name")
    if wild and "." not in name:
        raise ValueError(f"{text!r} allows a whole top-level domain")
    if name.replace(".", "").isdigit():
        raise ValueError(f"{text!r} is an address: write it as a network")
    return wild + name


def normal(text: str) -> str | None:
    """A name in its one form; None for what is no name that an application could ask for."""
    name = text.lower().removesuffix(".")
    return name if len(name) <= LONGEST and text.isascii() and _NAME.fullmatch(name) else None


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern allows a name; both in their one form."""
    if not pattern.startswith(WILDCARD):
        return name == pattern
    stem = pattern.removeprefix("*")
    if not name.endswith(stem):
        return False
    wild = name.removesuffix(stem)
    return 0 < len(wild) <= WILD_LENGTH and wild.count(".") < WILD_LABELS


def common(one: str, other: str) -> Iterator[str]:
    """The pattern of what both allow: one holds the other, or they have nothing in common."""
    if one == other or _holds(other, one):
        yield one
    elif _holds(one, other):
        yield other


def _holds(wide: str, narrow: str) -> bool:
    return wide.startswith(WILDCARD) and narrow.removeprefix(WILDCARD).endswith(wide[1:])
