"""Commands on accounts, users, policies and access keys; they ask the running service."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, age, print_json, print_raw, print_table
from microvmd.service.failure import Failure
from microvmd.settings import settings

accounts = typer.Typer(no_args_is_help=True, help="Accounts: create, list.")
users = typer.Typer(no_args_is_help=True, help="Users of an account: create, list, delete.")
policies = typer.Typer(no_args_is_help=True, help="What a user may do: attach, list, detach.")
keys = typer.Typer(no_args_is_help=True, help="Access keys: create, list, rotate, revoke.")

AccountOption = Annotated[
    str | None, typer.Option("--account", help="Number of the account; your own if not given.")
]
UserName = Annotated[str, typer.Argument(help="Name of a user: ann.")]
PolicyName = Annotated[str, typer.Argument(help="Name of an attached policy.")]
KeyId = Annotated[str, typer.Argument(help="The access key to end, AKIA...")]


@accounts.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="For people: team-a.")],
    number: Annotated[
        str | None, typer.Option("--id", help="12 digits; chosen at random if not given.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an account and its first user, admin, whose key is shown once.

    Example: microvmd accounts create team-a
    """
    with reported():
        answer = _service().ask("POST", "/accounts", {"name": name, "account": number})
        if as_json:
            print_json(answer)
            return
        print_raw(f"account {answer['account']['account']} ({name})")
        _print_key(answer["key"])


@accounts.command("list")
def list_accounts(as_json: JsonFlag = False) -> None:
    """All accounts; whoever is not the operator sees the own one.

    Example: microvmd accounts list
    """
    with reported():
        found = _service().ask("GET", "/accounts")["accounts"]
        if as_json:
            print_json(found)
            return
        rows = [(item["account"], item["name"], _age(item["created_at"])) for item in found]
        print_table(("ACCOUNT", "NAME", "AGE"), rows)


@users.command("create")
def create_user(name: UserName, account: AccountOption = None, as_json: JsonFlag = False) -> None:
    """Make a user, who may do nothing until a policy is attached.

    Example: microvmd users create ann
    """
    with reported():
        service = _service()
        user = service.ask("POST", _path(service, account, "users"), {"name": name})["user"]
        if as_json:
            print_json(user)
        else:
            print_raw(user["arn"])


@users.command("list")
def list_users(account: AccountOption = None, as_json: JsonFlag = False) -> None:
    """All users of an account.

    Example: microvmd users list --account 123456789012
    """
    with reported():
        service = _service()
        found = service.ask("GET", _path(service, account, "users"))["users"]
        if as_json:
            print_json(found)
            return
        rows = [(item["name"], item["arn"], _age(item["created_at"])) for item in found]
        print_table(("NAME", "ARN", "AGE"), rows)


@users.command("delete")
def delete_user(name: UserName, account: AccountOption = None) -> None:
    """Delete a user with its policies and keys, which end at once.

    Example: microvmd users delete ann
    """
    with reported():
        service = _service()
        service.ask("DELETE", _path(service, account, "users", name))


@policies.command("attach")
def attach_policy(
    user: UserName,
    file: Annotated[Path, typer.Argument(help="An IAM policy, JSON.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the policy; that of the file if not given.")
    ] = None,
    account: AccountOption = None,
) -> None:
    """Attach a policy to a user, or replace the one of that name. In force at the next request.

    Example: microvmd policies attach ann read-only.json
    """
    with reported():
        service = _service()
        try:
            document = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{file} cannot be read: {error}") from error
        path = _path(service, account, "users", user, "policies", name or file.stem)
        service.ask("PUT", path, {"document": document})


@policies.command("list")
def list_policies(user: UserName, account: AccountOption = None, as_json: JsonFlag = False) -> None:
    """Names of a user's policies; --json shows the documents.

    Example: microvmd policies list ann --json
    """
    with reported():
        service = _service()
        found = service.ask("GET", _path(service, account, "users", user, "policies"))["policies"]
        if as_json:
            print_json(found)
            return
        for name in found:
            print_raw(name)


@policies.command("detach")
def detach_policy(user: UserName, name: PolicyName, account: AccountOption = None) -> None:
    """Take a policy from a user. In force at the next request.

    Example: microvmd policies detach ann read-only
    """
    with reported():
        service = _service()
        service.ask("DELETE", _path(service, account, "users", user, "policies", name))


@keys.command("create")
def create_key(
    user: Annotated[str, typer.Argument(help="Whose key it is.")] = "admin",
    account: AccountOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a further key for a user. Its secret is shown once.

    Example: microvmd keys create ann
    """
    with reported():
        service = _service()
        answer = service.ask("POST", _path(service, account, "keys"), {"user": user})
        _show(answer["key"], as_json=as_json)


@keys.command("list")
def list_keys(
    user: Annotated[str | None, typer.Option(help="Of one user only.")] = None,
    account: AccountOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Keys of an account: whose, since when, when last used (up to a minute late on disk).

    Example: microvmd keys list --user ann
    """
    with reported():
        service = _service()
        query = {} if user is None else {"user": user}
        found = service.ask("GET", _path(service, account, "keys"), query=query)["keys"]
        if as_json:
            print_json(found)
            return
        rows = [
            (
                item["access_key"],
                item["user"],
                item["state"],
                _age(item["created_at"]),
                "never" if item["last_used_at"] is None else f"{_age(item['last_used_at'])} ago",
            )
            for item in found
        ]
        print_table(("KEY", "USER", "STATE", "AGE", "LAST USED"), rows)


@keys.command("rotate")
def rotate_key(
    key: Annotated[str, typer.Argument(help="The access key to replace.")],
    overlap: Annotated[
        int, typer.Option(help="Seconds for which the old key is still good.")
    ] = 86_400,
    account: AccountOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a new key for the same user; the old one ends after the overlap.

    Example: microvmd keys rotate AKIAEXAMPLE --overlap 3600
    """
    with reported():
        service = _service()
        path = _path(service, account, "keys", key, "rotate")
        _show(service.ask("POST", path, {"overlap": overlap})["key"], as_json=as_json)


@keys.command("revoke")
def revoke_key(key: KeyId, account: AccountOption = None) -> None:
    """End a key, and sessions that were got with it, at the next request.

    Example: microvmd keys revoke AKIAEXAMPLE
    """
    with reported():
        service = _service()
        service.ask("DELETE", _path(service, account, "keys", key))


def _service() -> Service:
    return Service(settings.load())


def _path(service: Service, account: str | None, *parts: str) -> str:
    return "/".join(("/accounts", account or service.account, *parts))


def _age(moment: float) -> str:
    return age(datetime.fromtimestamp(moment, UTC))


def _show(key: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(key)
    else:
        _print_key(key)


def _print_key(key: dict[str, Any]) -> None:
    print_raw(f"user    {key['user']}")
    print_raw(f"key     {key['access_key']}")
    print_raw(f"secret  {key['secret']}")
    print_raw("The secret is not shown again.")
