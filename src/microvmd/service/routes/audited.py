"""Calls of the service's own routes, told to the audit log like those of the AWS surface.

What has a name on AWS (accounts, users, keys) is told under it, all else as the service's own. A
route without a name here is a fault at start: no call goes unrecorded because somebody forgot it.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from microvmd.api.audit import SOURCE, Audit, Call, is_secret
from microvmd.api.errors import SignatureError
from microvmd.api.proven import claimed_account, proven
from microvmd.api.requests import address_of, signed_request
from microvmd.api.signed import Signature
from microvmd.api.sigv4 import read_signature
from microvmd.service.routes import PREFIX

IAM = "iam.amazonaws.com"
ACCOUNTS = "organizations.amazonaws.com"
_USERS = f"{PREFIX}/accounts/{{account}}/users"
_KEYS = f"{PREFIX}/accounts/{{account}}/keys"

OPEN = frozenset(
    {f"{PREFIX}/health", "/metrics", f"{PREFIX}/live", f"{PREFIX}/microvms/{{microvm_id}}/samples"}
)
"""Asked by programs and by pages that lie open, every few seconds: not recorded."""

NAMES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("GET", f"{PREFIX}/microvms/{{microvm_id}}"): (SOURCE, "GetMicrovmFacts"),
    ("GET", f"{PREFIX}/microvms/{{microvm_id}}/egress"): (SOURCE, "GetMicrovmEgress"),
    ("PUT", f"{PREFIX}/microvms/{{microvm_id}}/egress"): (SOURCE, "UpdateMicrovmEgress"),
    ("POST", f"{PREFIX}/network/reload"): (SOURCE, "ReloadNetworks"),
    ("GET", f"{PREFIX}/limits"): (SOURCE, "GetLimits"),
    ("GET", f"{PREFIX}/logs"): (SOURCE, "GetLogs"),
    ("GET", f"{PREFIX}/events"): (SOURCE, "ListEvents"),
    ("GET", f"{PREFIX}/audit"): (SOURCE, "LookupCalls"),
    ("GET", f"{PREFIX}/usage"): (SOURCE, "GetUsage"),
    ("POST", f"{PREFIX}/console/links"): (SOURCE, "CreateConsoleLink"),
    ("GET", f"{PREFIX}/console/sessions"): (SOURCE, "ListConsoleSessions"),
    ("DELETE", f"{PREFIX}/console/sessions/{{number}}"): (SOURCE, "EndConsoleSession"),
    ("GET", f"{PREFIX}/accounts"): (ACCOUNTS, "ListAccounts"),
    ("POST", f"{PREFIX}/accounts"): (ACCOUNTS, "CreateAccount"),
    ("GET", _USERS): (IAM, "ListUsers"),
    ("POST", _USERS): (IAM, "CreateUser"),
    ("DELETE", f"{_USERS}/{{user}}"): (IAM, "DeleteUser"),
    ("GET", f"{_USERS}/{{user}}/policies"): (IAM, "GetUserPolicy"),
    ("PUT", f"{_USERS}/{{user}}/policies/{{name}}"): (IAM, "PutUserPolicy"),
    ("DELETE", f"{_USERS}/{{user}}/policies/{{name}}"): (IAM, "DeleteUserPolicy"),
    ("GET", _KEYS): (IAM, "ListAccessKeys"),
    ("POST", _KEYS): (IAM, "CreateAccessKey"),
    ("POST", f"{_KEYS}/{{key}}/rotate"): (IAM, "RotateAccessKey"),
    ("DELETE", f"{_KEYS}/{{key}}"): (IAM, "DeleteAccessKey"),
}

TOLD = frozenset({"name", "account", "user", "overlap", "document", "egressNetworkConnectors"})
"""Members of bodies that are told; a body of a route may get one that must not be."""


class Nameless(Exception):
    """A route that the audit log has no name for."""


def audited(routes: Sequence[Route], audit: Audit, region: str) -> list[BaseRoute]:
    """The same routes, each of whose calls is recorded. Raise Nameless where one has no name."""
    return [_audited(route, audit, region) for route in routes]


def _audited(route: Route, audit: Audit, region: str) -> Route:
    methods = (route.methods or set()) - {"HEAD"}
    if route.path in OPEN:
        return route
    missing = sorted(m for m in methods if (m, route.path) not in NAMES)
    if missing:
        raise Nameless(f"{', '.join(missing)} {route.path} has no name in routes/audited.py")

    async def endpoint(request: Request) -> Response:
        call = _call(request, route.path, region)
        try:
            response: Response = await route.endpoint(request)
        except Exception as error:
            _know(call, request)
            call.error, call.message = "InternalError", type(error).__name__
            audit(call)
            raise
        _know(call, request)
        _answered(call, response)
        response.headers.setdefault("x-amzn-requestid", call.request_id)
        known = proven(request.scope)
        if known is None or not (known.live and call.idle):
            audit(call)
        return response

    return Route(route.path, endpoint, methods=sorted(methods))


def _call(request: Request, path: str, region: str) -> Call:
    method = "GET" if request.method == "HEAD" else request.method
    source, name = NAMES[method, path]
    agent = request.headers.get("user-agent")
    call = Call(str(uuid.uuid4()), region, address_of(request), agent)
    call.source, call.name, call.read_only = source, name, method == "GET"
    call.data = source == SOURCE and name.startswith("GetMicrovm")
    return call


def _know(call: Call, request: Request) -> None:
    known = proven(request.scope)
    if known is None:
        call.claim, call.account = _claim(request), claimed_account(request.scope)
        return
    call.context, call.request_id = known.context, known.context.request_id
    given = {**request.query_params, **request.path_params, **_members(known.body)}
    call.parameters = {name: value for name, value in given.items() if not is_secret(name)}


def _claim(request: Request) -> Signature | None:
    try:
        return read_signature(signed_request(request.scope))
    except SignatureError:
        return None


def _members(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in TOLD if name in found}


def _answered(call: Call, response: Response) -> None:
    if response.status_code >= 400:
        call.error = response.headers.get("x-amzn-errortype", str(response.status_code))
        found = _json(response)
        call.message = str(found.get("message") or "")
    elif not call.read_only:
        key = _json(response).get("key")
        if isinstance(key, dict):
            told = {name: key.get(name) for name in ("access_key", "user", "account")}
            call.elements = {"accessKey": told}


def _json(response: Response) -> dict[str, Any]:
    found = json.loads(bytes(response.body)) if getattr(response, "body", b"") else {}
    return found if isinstance(found, dict) else {}
