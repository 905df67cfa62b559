"""Who may call: users, their policies and access keys. A secret is shown once, on the page that
made it, and never again."""

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit
from microvmd.model.errors import ValidationError


async def access(visit: Visit) -> Response:
    """Users and keys of the account; the operator may look at any by ``account``."""
    return await _shown(visit, _account(visit))


async def user(visit: Visit) -> Response:
    """One user's policies, with their documents."""
    account, name = visit.path("account"), visit.path("user")
    found = await visit.service("GET", f"/accounts/{account}/users/{_part(name)}/policies")
    return visit.render("access/user.html", account=account, name=name, policies=found["policies"])


async def make_user(visit: Visit) -> Response:
    account = visit.path("account")
    name = (await visit.field("name")).strip()
    await visit.service("POST", f"/accounts/{account}/users", body={"name": name})
    visit.notify(f"User {name} is made, and may do nothing until a policy is attached.")
    return visit.go(f"/access/{account}/users/{quote(name)}")


async def delete_user(visit: Visit) -> Response:
    account, name = visit.path("account"), visit.path("user")
    await visit.service("DELETE", f"/accounts/{account}/users/{_part(name)}")
    visit.notify(f"User {name} is deleted, with all keys and policies.")
    return visit.go(_home(account))


async def attach(visit: Visit) -> Response:
    account, name = visit.path("account"), visit.path("user")
    policy = (await visit.field("policy")).strip()
    if not policy:
        raise ValidationError("The policy needs a name.")
    path = f"/accounts/{account}/users/{_part(name)}/policies/{_part(policy)}"
    await visit.service("PUT", path, body={"document": await visit.field("document")})
    visit.notify(f"Policy {policy} is in force from the next request on.")
    return visit.go(f"/access/{account}/users/{quote(name)}")


async def detach(visit: Visit) -> Response:
    account, name, policy = (visit.path(part) for part in ("account", "user", "policy"))
    path = f"/accounts/{account}/users/{_part(name)}/policies/{_part(policy)}"
    await visit.service("DELETE", path)
    visit.notify(f"Policy {policy} is taken away.")
    return visit.go(f"/access/{account}/users/{quote(name)}")


async def make_key(visit: Visit) -> Response:
    """Not a redirect: the answer is the one place where the secret is."""
    account = visit.path("account")
    body = {"user": await visit.field("user")}
    made = await visit.service("POST", f"/accounts/{account}/keys", body=body)
    return await _shown(visit, account, made["key"])


async def revoke_key(visit: Visit) -> Response:
    account, key = visit.path("account"), visit.path("key")
    await visit.service("DELETE", f"/accounts/{account}/keys/{_part(key)}")
    visit.notify(f"Key {key} is refused from now on.")
    return visit.go(_home(account))


async def _shown(visit: Visit, account: str, made: dict[str, Any] | None = None) -> Response:
    users = (await visit.service("GET", f"/accounts/{account}/users"))["users"]
    keys = (await visit.service("GET", f"/accounts/{account}/keys"))["keys"]
    accounts = []
    if visit.is_operator:
        accounts = (await visit.service("GET", "/accounts"))["accounts"]
    return visit.render(
        "access/access.html",
        account=account,
        accounts=accounts,
        users=users,
        keys=keys,
        made=made,
    )


def _account(visit: Visit) -> str:
    wanted = visit.query("account")
    return wanted if wanted and visit.is_operator else visit.known.context.account


def _part(name: str) -> str:
    """A name as one part of a path. Raises ValidationError."""
    if not name or "/" in name:
        raise ValidationError(f"'{name}' is no name.")
    return name


def _home(account: str) -> str:
    return f"/access?account={quote(account)}"


_USER = "/access/{account}/users/{user}"
PAGE = Page(
    (
        PageRoute("/access", access),
        PageRoute("/access/{account}/users", make_user, method="POST"),
        PageRoute(_USER, user),
        PageRoute(f"{_USER}/delete", delete_user, method="POST"),
        PageRoute(f"{_USER}/policies", attach, method="POST"),
        PageRoute(f"{_USER}/policies/{{policy}}/detach", detach, method="POST"),
        PageRoute("/access/{account}/keys", make_key, method="POST"),
        PageRoute("/access/{account}/keys/{key}/revoke", revoke_key, method="POST"),
    ),
    Section.ACCESS,
)
