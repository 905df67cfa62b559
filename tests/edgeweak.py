"""The edge with a defence taken out, so that a test sees the attack succeed that it stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from microvmd.edge import config

Weaken = Callable[[str], str]


def without(*fragments: str) -> Weaken:
    """Drops each line of the configuration that has one of these in it; all must be there."""

    def weaken(text: str) -> str:
        lines = text.splitlines(keepends=True)
        for fragment in fragments:
            kept = [line for line in lines if fragment not in line or line.strip().startswith("#")]
            assert len(kept) < len(lines), f"the configuration has no line with {fragment!r}"
            lines = kept
        return "".join(lines)

    return weaken


def instead(old: str, new: str) -> Weaken:
    """Exchanges a text of the configuration, which must be there."""

    def weaken(text: str) -> str:
        assert old in text, f"the configuration has no {old!r}"
        return text.replace(old, new)

    return weaken


def weakened(patch: pytest.MonkeyPatch, *ways: Weaken) -> None:
    """Edges that are started from now on have the weakened configuration."""
    text_of = config._package_text

    def text(name: str) -> str:
        found = text_of(name)
        for way in ways if name == "haproxy.cfg" else ():
            found = way(found)
        return found

    patch.setattr(config, "_package_text", text)
