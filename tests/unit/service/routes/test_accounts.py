"""Accounts over HTTP: what each route does, who may ask for it, and what bad requests are told."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from microvmd.api.requests import RequestContext
from microvmd.control.accounts import Accounts
from microvmd.control.directory import Directory
from microvmd.control.sealing import Sealer
from microvmd.control.store import Store
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import ADMINISTRATOR, Policy
from microvmd.service.routes.accounts import account_routes
from tests.unit.control.plane import Clock

pytestmark = pytest.mark.anyio

OPERATOR = "123456789012"
TEAM = "444455556666"
NOBODY = "999999999999"


class Desk:
    """The routes over a real store; who signs is a name in a header."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self.accounts = accounts
        self._clock = clock
        routes = account_routes(accounts, self._authenticate, OPERATOR)
        transport = httpx.ASGITransport(app=Starlette(routes=routes))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://api")
        self.callers = {
            "operator": Caller.root(OPERATOR),
            "root of team": Caller.root(TEAM),
            "admin": self.user("admin", ADMINISTRATOR),
            "nobody": self.user("nobody"),
            "limited operator": Caller(
                f"arn:aws:iam::{OPERATOR}:root", OPERATOR, CallerKind.ROOT, limits=((),)
            ),
        }

    @staticmethod
    def user(name: str, *documents: str) -> Caller:
        policies = tuple(Policy.parse(document) for document in documents)
        return Caller(f"arn:aws:iam::{TEAM}:user/{name}", TEAM, CallerKind.USER, name, policies)

    async def _authenticate(self, request: Request) -> tuple[RequestContext, bytes]:
        signer = request.headers.get("authorization", "")
        if signer == "unknown caller":
            return self._context(None), await request.body()
        if signer not in self.callers:
            raise AccessDenied("not signed")
        return self._context(self.callers[signer]), await request.body()

    def _context(self, caller: Caller | None) -> RequestContext:
        now = datetime.fromtimestamp(self._clock.now, UTC)
        return RequestContext(OPERATOR, "us-east-1", "AKIA", "r", now, caller)

    async def __call__(
        self, signer: str, method: str, path: str, body: Any = None
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
        headers = {"authorization": signer}
        return await self._client.request(
            method, f"/microvmd/v1{path}", content=content, headers=headers
        )

    async def made(self, signer: str, method: str, path: str, body: Any = None) -> Any:
        answer = await self(signer, method, path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    async with Store.at(directory / "state.db") as store:
        accounts = Accounts(store, Directory(Sealer(b"k" * 32)), clock)
        await accounts.open(OPERATOR)
        await accounts.create_account("team", TEAM)
        yield Desk(accounts, clock)


async def test_an_account_from_its_making_to_its_keys(tmp_path: Path) -> None:
    async with desk(tmp_path) as ask:
        made = await ask.made("operator", "POST", "/accounts", {"name": "b", "account": NOBODY})
        assert made["account"]["account"] == NOBODY
        assert (made["key"]["user"], len(made["key"]["secret"])) == ("admin", 40)
        listed = await ask.made("operator", "GET", "/accounts")
        assert [item["account"] for item in listed["accounts"]] == [OPERATOR, TEAM, NOBODY]
        users = f"/accounts/{NOBODY}/users"
        user = (await ask.made("operator", "POST", users, {"name": "eve"}))["user"]
        assert user["arn"] == f"arn:aws:iam::{NOBODY}:user/eve"
        policies = f"{users}/eve/policies"
        await ask.made("operator", "PUT", f"{policies}/p", {"document": ADMINISTRATOR})
        assert await ask.made("operator", "GET", policies) == {"policies": {"p": ADMINISTRATOR}}
        await ask.made("operator", "DELETE", f"{policies}/p")
        assert await ask.made("operator", "GET", policies) == {"policies": {}}
        await ask.made("operator", "DELETE", f"{users}/eve")
        found = await ask.made("operator", "GET", users)
        assert [item["name"] for item in found["users"]] == ["admin"]


async def test_a_secret_is_shown_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as ask:
        keys = f"/accounts/{TEAM}/keys"
        made = (await ask.made("admin", "POST", keys, {"user": "admin"}))["key"]
        rotated = await ask.made(
            "admin", "POST", f"{keys}/{made['access_key']}/rotate", {"overlap": 60}
        )
        assert (rotated["old"]["state"], rotated["key"]["state"]) == ("ENDING", "ACTIVE")
        assert rotated["key"]["secret"] not in (made["secret"], None)
        assert "secret" not in rotated["old"]
        answer = await ask("admin", "GET", f"{keys}?user=admin")
        states = sorted(item["state"] for item in answer.json()["keys"])
        assert states == ["ACTIVE", "ACTIVE", "ENDING"]
        for secret in (made["secret"], rotated["key"]["secret"], "sealed"):
            assert secret not in answer.text
        await ask.made("admin", "DELETE", f"{keys}/{made['access_key']}")
        assert len((await ask.made("admin", "GET", keys))["keys"]) == 2


ROUTES: list[tuple[str, str, Any, str]] = [
    ("GET", "/accounts/{}/users", None, "iam:ListUsers"),
    ("POST", "/accounts/{}/users", {"name": "x"}, "iam:CreateUser"),
    ("DELETE", "/accounts/{}/users/admin", None, "iam:DeleteUser"),
    ("GET", "/accounts/{}/users/admin/policies", None, "iam:GetUserPolicy"),
    (
        "PUT",
        "/accounts/{}/users/admin/policies/p",
        {"document": ADMINISTRATOR},
        "iam:PutUserPolicy",
    ),
    (
        "DELETE",
        "/accounts/{}/users/admin/policies/AdministratorAccess",
        None,
        "iam:DeleteUserPolicy",
    ),
    ("GET", "/accounts/{}/keys?user=admin", None, "iam:ListAccessKeys"),
    ("POST", "/accounts/{}/keys", {"user": "admin"}, "iam:CreateAccessKey"),
    ("POST", "/accounts/{}/keys/KEY/rotate", {}, "iam:CreateAccessKey"),
    ("DELETE", "/accounts/{}/keys/KEY", None, "iam:DeleteAccessKey"),
]


@pytest.mark.parametrize(("method", "path", "body", "action"), ROUTES)
async def test_each_route_needs_its_own_right(
    tmp_path: Path, method: str, path: str, body: Any, action: str
) -> None:
    async with desk(tmp_path) as ask:
        [key] = ask.accounts.keys(TEAM)
        place = path.format(TEAM).replace("KEY", key.access_key)
        about = f"arn:aws:iam::{TEAM}:user/{'x' if body == {'name': 'x'} else 'admin'}"
        rule = {"Effect": "Allow", "Action": action, "Resource": about}
        every = {"Effect": "Allow", "NotAction": action, "Resource": "*"}
        other = {**rule, "Resource": f"arn:aws:iam::{TEAM}:user/other"}
        for name, statement in (("exact", rule), ("every", every), ("other", other)):
            text = json.dumps({"Version": "2012-10-17", "Statement": statement})
            ask.callers[name] = ask.user(name, text)
        for signer in ("nobody", "every", "other", "limited operator", "unknown caller", ""):
            answer = await ask(signer, method, place, body)
            assert answer.status_code == 403, signer
            assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"
        # A list of all users names none, so that a right to one of them does not do.
        expected = 403 if action == "iam:ListUsers" else 200
        assert (await ask("exact", method, place, body)).status_code == expected


@pytest.mark.parametrize(("method", "path", "body", "action"), ROUTES)
async def test_another_account_and_none_look_alike(
    tmp_path: Path, method: str, path: str, body: Any, action: str
) -> None:
    async with desk(tmp_path) as ask:
        await ask.accounts.create_user(OPERATOR, "admin")
        key = (await ask.accounts.create_key(OPERATOR, "admin")).key.access_key
        texts = []
        for account, name in ((OPERATOR, key), (NOBODY, "AKIANOBODY")):
            answer = await ask(
                "root of team", method, path.format(account).replace("KEY", name), body
            )
            assert answer.status_code == 403
            texts.append(answer.text.replace(account, "<A>").replace(name, "<K>"))
        assert texts[0] == texts[1]
        assert f"perform: {action} on resource:" in texts[0]
        assert [k.access_key for k in ask.accounts.keys(OPERATOR)] == [key]


async def test_only_the_operator_makes_accounts_and_sees_all(tmp_path: Path) -> None:
    async with desk(tmp_path) as ask:
        for signer in ("admin", "root of team", "limited operator"):
            answer = await ask(signer, "POST", "/accounts", {"name": "more"})
            assert answer.status_code == 403
            assert "only the operator makes accounts" in answer.json()["message"]
        for signer in ("admin", "root of team"):
            listed = await ask.made(signer, "GET", "/accounts")
            assert [item["account"] for item in listed["accounts"]] == [TEAM]
        assert (await ask("nobody", "GET", "/accounts")).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/accounts", None),
        ("POST", "/accounts", b"{"),
        ("POST", "/accounts", b"[]"),
        ("POST", "/accounts", b"\xff"),
        ("POST", "/accounts", b"[" * 100_000),
        ("POST", "/accounts", {"name": 7}),
        ("POST", "/accounts", {"name": ""}),
        ("POST", "/accounts", {"name": "b", "account": "12"}),
        ("POST", f"/accounts/{TEAM}/users", {"name": "a/b"}),
        ("POST", f"/accounts/{TEAM}/keys", {}),
        ("PUT", f"/accounts/{TEAM}/users/admin/policies/p", {"document": "{}"}),
        ("PUT", f"/accounts/{TEAM}/users/admin/policies/p", {"document": {}}),
        ("PUT", f"/accounts/{TEAM}/users/admin/policies/p!", {"document": ADMINISTRATOR}),
        ("POST", f"/accounts/{TEAM}/keys/KEY/rotate", {"overlap": "1"}),
        ("POST", f"/accounts/{TEAM}/keys/KEY/rotate", {"overlap": True}),
        ("POST", f"/accounts/{TEAM}/keys/KEY/rotate", {"overlap": -1}),
        ("POST", f"/accounts/{TEAM}/keys/KEY/rotate", {"overlap": 1e300}),
    ],
)
async def test_bad_requests(tmp_path: Path, method: str, path: str, body: Any) -> None:
    async with desk(tmp_path) as ask:
        [key] = ask.accounts.keys(TEAM)
        answer = await ask("operator", method, path.replace("KEY", key.access_key), body)
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (
            400,
            "ValidationException",
        )
        assert answer.json()["message"]


async def test_what_is_not_there(tmp_path: Path) -> None:
    async with desk(tmp_path) as ask:
        for method, path, body in (
            ("GET", f"/accounts/{NOBODY}/users", None),
            ("DELETE", f"/accounts/{TEAM}/users/absent", None),
            ("DELETE", f"/accounts/{TEAM}/users/admin/policies/absent", None),
            ("DELETE", f"/accounts/{TEAM}/keys/AKIAABSENT", None),
        ):
            assert (await ask("operator", method, path, body)).status_code == 404, path
