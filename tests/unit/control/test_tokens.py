"""Keys rotate without a token dying early; port lists keep their meaning."""

from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.control.tokens import (
    LONGEST_LIFE,
    PUBLISH_AHEAD,
    Claims,
    InvalidToken,
    TokenIssuer,
    port_spec,
)

PORT = st.integers(1, 65535)
START = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def _kid(token: str) -> str:
    head = token.split(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return kid


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_token_says_what_was_issued(tmp_path: Path) -> None:
    clock = Clock()
    issuer = TokenIssuer(tmp_path, clock=clock)
    token = issuer.issue("vm-a", "8080,9000-9100", _at(START + 600), "shell")
    assert issuer.verify(token) == Claims("vm-a", "8080,9000-9100", "shell", START + 600)
    clock.now += 600
    with pytest.raises(InvalidToken, match="expired"):
        issuer.verify(token)


def test_a_token_says_how_large_its_microvm_is(tmp_path: Path) -> None:
    issuer = TokenIssuer(tmp_path)
    token = issuer.issue("vm-a", "8080", datetime.now(UTC) + timedelta(minutes=5), vcpus=16)
    assert issuer._opened(token)["vcpus"] == 16


def test_a_token_has_the_recorded_form(tmp_path: Path) -> None:
    token = TokenIssuer(tmp_path).issue("vm-a", "8080", datetime.now(UTC) + timedelta(minutes=5))
    header, key, *rest = token.split(".")
    assert not key
    assert len(rest) == 3
    said = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    assert list(said) == ["kid", "alg", "enc"]
    assert (said["alg"], said["enc"]) == ("dir", "A256GCM")
    assert [len(rest[0]), len(rest[2])] == [16, 22], "a nonce and a tag"


@given(st.data())
def test_any_change_makes_a_token_invalid(data: st.DataObject) -> None:
    token = ISSUER.issue("vm-a", "8080", datetime.now(UTC).replace(year=2999))
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCDwxyz0189-_.").filter(lambda c: c != token[at]))
    with pytest.raises(InvalidToken):
        ISSUER.verify(token[:at] + other + token[at + 1 :])


@given(st.text(max_size=60) | st.from_regex(r"[\w-]{0,20}(\.[\w-]{0,20}){4}"))
def test_hostile_tokens_are_invalid(text: str) -> None:
    with pytest.raises(InvalidToken):
        ISSUER.verify(text)


@pytest.fixture(scope="module", autouse=True)
def _issuer(tmp_path_factory: pytest.TempPathFactory) -> None:
    global ISSUER
    ISSUER = TokenIssuer(tmp_path_factory.mktemp("keys"))


ISSUER: TokenIssuer


def test_a_token_of_other_keys_is_invalid(tmp_path: Path) -> None:
    ours, theirs = TokenIssuer(tmp_path / "a"), TokenIssuer(tmp_path / "b")
    token = theirs.issue("vm-a", "*", datetime.now(UTC).replace(year=2999))
    with pytest.raises(InvalidToken):
        ours.verify(token)
    assert theirs.verify(token).endpoint_id == "vm-a"


def test_rotation_publishes_ahead_and_keeps_the_old_key(tmp_path: Path) -> None:
    clock = Clock()
    issuer = TokenIssuer(tmp_path, clock=clock)
    old = issuer.issue("vm-a", "*", _at(START + LONGEST_LIFE * 2))
    assert not issuer.rotate(after=100)
    clock.now += 100
    assert issuer.rotate(after=100)
    assert len(issuer.keys()) == 2
    assert _kid(issuer.issue("vm-a", "*", _at(START + 600))) == _kid(old)
    clock.now += PUBLISH_AHEAD
    assert _kid(issuer.issue("vm-a", "*", _at(START + 600))) != _kid(old)
    clock.now += LONGEST_LIFE
    issuer.rotate(after=1e9)
    assert issuer.verify(old)
    clock.now += LONGEST_LIFE
    assert issuer.rotate(after=1e9)
    headers = issuer.keys()
    assert old.split(".")[0] not in headers
    assert len(list(tmp_path.iterdir())) == 1


def test_keys_are_private_and_survive_a_restart(tmp_path: Path) -> None:
    first = TokenIssuer(tmp_path / "keys")
    token = first.issue("vm-a", "*", datetime.now(UTC).replace(year=2999))
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "keys").iterdir()} == {0o600}
    second = TokenIssuer(tmp_path / "keys")
    assert second.keys() == first.keys()
    assert second.verify(token)


def _member(spec: str, port: int) -> bool:
    if spec == "*":
        return True
    spans = [part.partition("-") for part in spec.split(",")]
    return any(int(low) <= port <= int(high or low) for low, _, high in spans)


@given(st.lists(st.tuples(PORT, PORT), min_size=1, max_size=8), PORT)
def test_port_spec_keeps_its_meaning(pairs: list[tuple[int, int]], port: int) -> None:
    spans = [(min(pair), max(pair)) for pair in pairs]
    allowed = [{"range": {"startPort": low, "endPort": high}} for low, high in spans]
    spec = port_spec(allowed)
    assert _member(spec, port) == any(low <= port <= high for low, high in spans)
    assert port_spec([{"port": low} for low, _ in spans]) == ",".join(str(low) for low, _ in spans)
    assert port_spec([*allowed, {"allPorts": {}}]) == "*"


@pytest.mark.parametrize(
    "allowed",
    [[], [{"port": 0}], [{"port": 65536}], [{"range": {"startPort": 9, "endPort": 8}}]],
)
def test_port_spec_refuses_what_is_no_port(allowed: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="port"):
        port_spec(allowed)


@pytest.mark.parametrize("spec", ["", "all", "80;90", "80-", "123456", "80 ,90"])
def test_issue_refuses_what_is_no_port_list(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ValueError, match="port list"):
        TokenIssuer(tmp_path).issue("vm-a", spec, datetime.now(UTC))
