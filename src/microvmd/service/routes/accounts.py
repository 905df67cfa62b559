"""Accounts, users, policies and keys over ``/microvmd/v1/accounts``: what the commands call.

The operator, who is the root of the default account (its key is in the AWS profile that ``serve``
writes), manages every account. Anybody else manages the own account, as far as policies allow: the
actions are IAM's own (``iam:CreateUser``, ``iam:CreateAccessKey``, ``iam:PutUserPolicy``, ...) on
``arn:aws:iam::<account>:user/<name>``. Another account and one that does not exist look alike.

Bodies and answers are JSON. A secret is in the answer that made it and in no other.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microvmd.api.requests import RequestContext
from microvmd.control.accounts import DEFAULT_OVERLAP_S, Accounts, NewKey
from microvmd.model.account import AccessKey
from microvmd.model.caller import Caller
from microvmd.model.errors import AccessDenied, ValidationError
from microvmd.model.policy import Asked
from microvmd.service.routes import PREFIX
from microvmd.service.routes.extensions import Authenticate, answering

_USERS = f"{PREFIX}/accounts/{{account}}/users"
_KEYS = f"{PREFIX}/accounts/{{account}}/keys"

_Answer = Callable[["_Asked"], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One authenticated request."""

    request: Request
    context: RequestContext
    body: dict[str, Any]
    operator: str
    """The account whose root manages all others."""

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def text(self, name: str) -> str | None:
        value = self.body.get(name)
        if value is not None and not isinstance(value, str):
            raise ValidationError(f"{name} must be a text")
        return value

    def needed(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise ValidationError(f"{name} is needed")
        return value

    @property
    def caller(self) -> Caller:
        if self.context.caller is None:
            raise AccessDenied("The caller of this request is not known.")
        return self.context.caller

    @property
    def is_operator(self) -> bool:
        return self.caller.is_root_of(self.operator)

    def allow(self, action: str, user: str | None = None) -> str:
        """The account of the path, if the caller may do this to this user of it."""
        account = self.path("account")
        if self.is_operator:
            return account
        arn = f"arn:aws:iam::{account}:user/{user or '*'}"
        if account != self.caller.account:
            raise AccessDenied(
                f"User: {self.caller.arn} is not authorized to perform: {action} on resource: {arn}"
            )
        self.caller.require(Asked(action, arn if user else None, {}), arn)
        return account


def account_routes(accounts: Accounts, authenticate: Authenticate, operator: str) -> list[Route]:
    """The routes to mount beside ``extension_routes``. ``operator`` is the default account."""
    service = _AccountService(accounts)

    def route(path: str, method: str, answer: _Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            context, body = await authenticate(request)
            asked = _Asked(request, context, _read(body), operator)
            return JSONResponse(await answer(asked))

        return Route(path, answering(endpoint), methods=[method])

    return [
        route(f"{PREFIX}/accounts", "GET", service.list_accounts),
        route(f"{PREFIX}/accounts", "POST", service.create_account),
        route(_USERS, "GET", service.list_users),
        route(_USERS, "POST", service.create_user),
        route(f"{_USERS}/{{user}}", "DELETE", service.delete_user),
        route(f"{_USERS}/{{user}}/policies", "GET", service.list_policies),
        route(f"{_USERS}/{{user}}/policies/{{name}}", "PUT", service.put_policy),
        route(f"{_USERS}/{{user}}/policies/{{name}}", "DELETE", service.remove_policy),
        route(_KEYS, "GET", service.list_keys),
        route(_KEYS, "POST", service.create_key),
        route(f"{_KEYS}/{{key}}/rotate", "POST", service.rotate_key),
        route(f"{_KEYS}/{{key}}", "DELETE", service.revoke_key),
    ]


@dataclass(frozen=True, slots=True)
class _AccountService:
    accounts: Accounts

    async def list_accounts(self, asked: _Asked) -> object:
        """The operator sees all, others their own."""
        if not asked.is_operator:
            asked.caller.require(Asked("organizations:DescribeAccount", "*", {}))
        found = [
            asdict(account)
            for account in self.accounts.accounts()
            if asked.is_operator or account.account == asked.caller.account
        ]
        return {"accounts": found}

    async def create_account(self, asked: _Asked) -> object:
        if not asked.is_operator:
            raise AccessDenied(
                f"User: {asked.caller.arn} is not authorized to perform: "
                "organizations:CreateAccount: only the operator makes accounts"
            )
        account, key = await self.accounts.create_account(
            asked.needed("name"), asked.text("account")
        )
        return {"account": asdict(account), "key": _new_key(key, asked)}

    async def list_users(self, asked: _Asked) -> object:
        account = asked.allow("iam:ListUsers")
        users = self.accounts.users(account)
        return {"users": [{**asdict(user), "arn": user.arn} for user in users]}

    async def create_user(self, asked: _Asked) -> object:
        name = asked.needed("name")
        user = await self.accounts.create_user(asked.allow("iam:CreateUser", name), name)
        return {"user": {**asdict(user), "arn": user.arn}}

    async def delete_user(self, asked: _Asked) -> object:
        name = asked.path("user")
        await self.accounts.delete_user(asked.allow("iam:DeleteUser", name), name)
        return {}

    async def list_policies(self, asked: _Asked) -> object:
        name = asked.path("user")
        account = asked.allow("iam:GetUserPolicy", name)
        return {"policies": self.accounts.policies(account, name)}

    async def put_policy(self, asked: _Asked) -> object:
        user = asked.path("user")
        account = asked.allow("iam:PutUserPolicy", user)
        document = asked.needed("document")
        await self.accounts.put_policy(account, user, asked.path("name"), document)
        return {}

    async def remove_policy(self, asked: _Asked) -> object:
        user = asked.path("user")
        account = asked.allow("iam:DeleteUserPolicy", user)
        await self.accounts.remove_policy(account, user, asked.path("name"))
        return {}

    async def list_keys(self, asked: _Asked) -> object:
        user = asked.request.query_params.get("user")
        account = asked.allow("iam:ListAccessKeys", user)
        return {"keys": [_key(key, asked) for key in self.accounts.keys(account, user)]}

    async def create_key(self, asked: _Asked) -> object:
        user = asked.needed("user")
        account = asked.allow("iam:CreateAccessKey", user)
        return {"key": _new_key(await self.accounts.create_key(account, user), asked)}

    async def rotate_key(self, asked: _Asked) -> object:
        """A right to make keys for that user is a right to rotate them."""
        key = asked.path("key")
        account = asked.allow("iam:CreateAccessKey", self._user_of(asked, key))
        overlap = asked.body.get("overlap", DEFAULT_OVERLAP_S)
        if isinstance(overlap, bool) or not isinstance(overlap, int | float):
            raise ValidationError("overlap must be a number of seconds")
        made, old = await self.accounts.rotate_key(account, key, float(overlap))
        return {"key": _new_key(made, asked), "old": _key(old, asked)}

    async def revoke_key(self, asked: _Asked) -> object:
        key = asked.path("key")
        account = asked.allow("iam:DeleteAccessKey", self._user_of(asked, key))
        await self.accounts.revoke_key(account, key)
        return {}

    def _user_of(self, asked: _Asked, access_key: str) -> str | None:
        """None for a key that the caller's account does not have: only a right to all may ask."""
        account = asked.path("account")
        if not asked.is_operator and account != asked.caller.account:
            return None
        found = (key for key in self.accounts.keys(account) if key.access_key == access_key)
        return next((key.user for key in found), None)


def _key(key: AccessKey, asked: _Asked) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(key).items() if name != "sealed"}
    return {**shown, "state": key.state(asked.context.now.timestamp()).value}


def _new_key(made: NewKey, asked: _Asked) -> dict[str, Any]:
    return {**_key(made.key, asked), "secret": made.secret}


def _read(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValidationError("the body must be a JSON object")
    return found
