"""What a guest is told, and what it is refused."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.node.metadata import (
    LONGEST_TOKEN,
    PATIENCE,
    TOKEN_HEADER,
    TTL_HEADER,
    Answer,
    Ask,
    Instance,
    Tokens,
    answer,
)
from microvmd.node.roles import RoleCredentials

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
TOKENS = Tokens(b"k" * 32)
CREDENTIALS = RoleCredentials("ASIA1", "secret", "session", NOW - 60.5, NOW + 3540.5)
ROLE_PATH = "/latest/meta-data/iam/security-credentials/"


@dataclass
class Role:
    """A role whose credentials are there, or not, at once."""

    held: RoleCredentials | None = CREDENTIALS
    refused: bool = False
    waited: float | None = None

    async def current(self, wait: float) -> RoleCredentials | None:
        self.waited = wait
        return self.held


def instance(role: Role | None) -> Instance:
    return Instance("microvm-1", "eu-central-1", role)


async def put(headers: dict[str, str]) -> Answer:
    ask = Ask("PUT", "/latest/api/token", headers)
    return await answer(ask, instance(None), TOKENS, NOW)


async def get(path: str, role: Role | None = None, *, method: str = "GET") -> Answer:
    token = TOKENS.make("microvm-1", 60, NOW)
    return await answer(Ask(method, path, {TOKEN_HEADER: token}), instance(role), TOKENS, NOW)


@pytest.mark.parametrize("ttl", ["1", "21600", "00060"])
async def test_a_token_may_not_pass_a_router(ttl: str) -> None:
    found = await put({TTL_HEADER: ttl})
    assert (found.status, found.near) == (200, True)
    assert found.headers == {TTL_HEADER: ttl}
    assert TOKENS.left("microvm-1", found.body.decode(), NOW) == int(ttl)


@pytest.mark.parametrize("ttl", [None, "", "0", "21601", "-1", "1.5", "abc", "9" * 400, "²"])
async def test_a_token_needs_a_life_within_limits(ttl: str | None) -> None:
    found = await put({} if ttl is None else {TTL_HEADER: ttl})
    assert (found.status, found.near) == (400, False)
    assert b"400 - Bad Request" in found.body


async def test_no_token_for_whoever_comes_through_a_proxy() -> None:
    found = await put({TTL_HEADER: "60", "x-forwarded-for": "203.0.113.9"})
    assert found.status == 403


@pytest.mark.parametrize("token", [None, "", "x", "AAAA", "\xff", "A" * 4000])
async def test_nothing_is_told_without_a_token(token: str | None) -> None:
    headers = {} if token is None else {TOKEN_HEADER: token}
    for path in ("/", ROLE_PATH, f"{ROLE_PATH}execution_role", "/latest/meta-data/"):
        found = await answer(Ask("GET", path, headers), instance(Role()), TOKENS, NOW)
        assert found.status == 401
        assert found.content_type == "text/html"


async def test_a_token_ends_and_is_good_for_one_guest() -> None:
    token = TOKENS.make("microvm-1", 60, NOW)
    assert TOKENS.left("microvm-1", token, NOW + 59.9) == 1
    assert TOKENS.left("microvm-1", token, NOW + 60) is None
    assert TOKENS.left("microvm-2", token, NOW) is None
    assert Tokens().left("microvm-1", token, NOW) is None


async def test_credentials_as_ec2_gives_them() -> None:
    role = Role()
    listed = await get(ROLE_PATH, role)
    assert (listed.status, listed.body) == (200, b"execution_role")
    assert listed.headers == {TTL_HEADER: "60"}
    found = await get(f"{ROLE_PATH}execution_role", role)
    assert (found.status, found.content_type, found.near) == (200, "text/plain", False)
    assert role.waited == PATIENCE
    assert json.loads(found.body) == {
        "Code": "Success",
        "LastUpdated": "2027-01-15T07:58:59Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIA1",
        "SecretAccessKey": "secret",
        "Token": "session",
        "Expiration": "2027-01-15T08:59:00Z",
    }


async def test_credentials_that_are_not_to_be_had() -> None:
    path = f"{ROLE_PATH}execution_role"
    assert (await get(path, Role(None))).status == 503
    refused = await get(path, Role(None, refused=True))
    assert refused.status == 200
    assert json.loads(refused.body)["Code"] == "AssumeRoleUnauthorizedAccess"
    # What STS refuses now does not take back what it gave before.
    assert json.loads((await get(path, Role(refused=True))).body)["Code"] == "Success"


@pytest.mark.parametrize("path", [ROLE_PATH, f"{ROLE_PATH}execution_role", "/latest/meta-data/iam"])
async def test_no_credentials_without_a_role(path: str) -> None:
    assert (await get(path)).status == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/latest/meta-data/placement/region", b"eu-central-1"),
        ("/latest/meta-data/placement/availability-zone/", b"eu-central-1a"),
        ("/latest/meta-data/", b"iam/\nplacement/"),
        (f"{ROLE_PATH}?x=1", b"execution_role"),
    ],
)
async def test_what_else_is_there(path: str, body: bytes) -> None:
    found = await get(path, Role())
    assert (found.status, found.body) == (200, body)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "latest",
        "/latest/dynamic/instance-identity/document",
        "/latest/meta-data/iam/security-credentials-extended/",
        f"{ROLE_PATH}other",
        f"{ROLE_PATH}execution_role/",
        f"{ROLE_PATH}../{'x' * 5000}",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_nothing_else_is_there(path: str) -> None:
    found = await get(path, Role())
    assert (found.status, found.content_type) == (404, "text/html")


async def test_methods() -> None:
    assert (await get(ROLE_PATH, Role(), method="HEAD")).status == 200
    for method in ("POST", "DELETE", "PUT", "OPTIONS", "get"):
        assert (await get(ROLE_PATH, Role(), method=method)).status == 405


async def test_a_guest_that_nothing_is_known_of_gets_a_token_and_no_more() -> None:
    asked = Ask("PUT", "/latest/api/token", {TTL_HEADER: "60"})
    token = (await answer(asked, None, TOKENS, NOW)).body.decode()
    found = await answer(Ask("GET", ROLE_PATH, {TOKEN_HEADER: token}), None, TOKENS, NOW)
    assert found.status == 404


@given(st.text(max_size=300), st.floats(0, 4e9))
def test_no_made_up_token_is_good(token: str, now: float) -> None:
    assert TOKENS.left("microvm-1", token, now) is None


@given(st.integers(1, LONGEST_TOKEN), st.integers(0, 300), st.integers(1, 255))
def test_no_changed_token_is_good(ttl: int, place: int, change: int) -> None:
    token = TOKENS.make("microvm-1", ttl, NOW)
    assert TOKENS.left("microvm-1", token, NOW) == ttl
    raw = bytearray(token.encode())
    raw[place % len(raw)] ^= change
    changed = raw.decode("latin-1")
    if changed != token:
        assert TOKENS.left("microvm-1", changed, NOW) is None
