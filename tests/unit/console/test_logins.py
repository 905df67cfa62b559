"""Bounds of failed logins, links that are good once, secrets that must be right."""

import pytest

from microvmd.api.credentials import Identity, KeyRing
from microvmd.console.logins import (
    FAILURES_OF_A_SOURCE,
    FAILURES_PERIOD_S,
    LINK_SECONDS,
    LINKS,
    SOURCES,
    Attempts,
    Links,
    identity_of,
)
from tests.unit.control.plane import Clock

KEY = Identity("AKIAROOT", "the-secret", "111122223333")


def test_too_many_failures_wait() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(FAILURES_OF_A_SOURCE):
        assert attempts.wait("192.0.2.1") == 0
        attempts.fail("192.0.2.1")
        clock.now += 1
    assert attempts.wait("192.0.2.1") == FAILURES_PERIOD_S - FAILURES_OF_A_SOURCE
    assert attempts.wait("192.0.2.2") == 0
    clock.now += FAILURES_PERIOD_S
    assert attempts.wait("192.0.2.1") == 0


def test_sources_are_bounded() -> None:
    attempts = Attempts(Clock())
    for number in range(SOURCES + 10):
        attempts.fail(str(number))
    assert len(attempts._failed) == SOURCES


def test_a_link_is_good_once_and_not_for_long() -> None:
    clock = Clock()
    links = Links(clock)
    token = links.make("AKIA")
    assert links.look(token) == "AKIA"
    assert links.take(token) == "AKIA"
    assert links.take(token) is None
    late = links.make("AKIA")
    clock.now += LINK_SECONDS
    assert links.take(late) is None
    assert links.take("nothing") is None


def test_links_are_bounded() -> None:
    links = Links(Clock())
    tokens = [links.make(str(number)) for number in range(LINKS + 1)]
    assert links.look(tokens[0]) is None
    assert links.look(tokens[1]) == "1"
    assert links.look(tokens[-1]) == str(LINKS)


@pytest.mark.anyio
async def test_only_the_right_secret_of_a_long_term_key() -> None:
    temporary = Identity("ASIA", "the-secret", "111122223333", session_token="t")
    ring = KeyRing([KEY, temporary])
    assert await identity_of(ring, "AKIAROOT", "the-secret") == KEY
    for name, secret in (
        ("AKIAROOT", "the-secre"),
        ("AKIAROOT", ""),
        ("AKIANOBODY", "the-secret"),
        ("", ""),
        ("AKIAROOT", "thé-secret"),
        ("ASIA", "the-secret"),
    ):
        assert await identity_of(ring, name, secret) is None
