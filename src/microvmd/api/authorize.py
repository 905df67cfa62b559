"""May this caller do this? Asked once the shapes are checked and before anything is looked up.

What an operation is about follows from its members: an image, a MicroVM (which stands for its
image), a connector, or nothing (lists). Roles and connectors that a request hands on need a right
of their own, as on AWS: ``iam:PassRole`` and ``lambda:PassNetworkConnector``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from microvmd.api.operations import Operation
from microvmd.api.requests import RequestContext
from microvmd.control.subjects import Subject
from microvmd.model.caller import Caller, tags_context
from microvmd.model.connector import Egress, Ingress, managed_arn
from microvmd.model.errors import AccessDenied
from microvmd.model.identifiers import is_connector_arn, is_slash_form, microvm_arn
from microvmd.model.pattern import Context
from microvmd.model.policy import Asked

Request = Mapping[str, Any]

_ROLES = ("buildRoleArn", "executionRoleArn", "OperatorRole")
# Authorised on "*", whatever they filter by.
_WITHOUT_RESOURCE = frozenset(
    {"ListMicrovms", "ListMicrovmImages", "ListManagedMicrovmImages", "ListNetworkConnectors"}
)
_NAMES_EGRESS = frozenset({"CreateMicrovmImage", "UpdateMicrovmImage", "RunMicrovm"})


class SubjectSource(Protocol):
    """Looks up what identifiers mean (control/subjects.py)."""

    async def microvm(self, account: str, microvm_id: str) -> Subject: ...

    async def image(self, account: str, identifier: str) -> Subject: ...

    async def connector(self, account: str, region: str, identifier: str) -> Subject: ...


@dataclass(frozen=True, slots=True)
class _Target:
    resource: str | None
    shown: str | None = None
    context: Context | None = None


class Authorizer:
    """Raises AccessDenied, or lets the request go on."""

    def __init__(self, subjects: SubjectSource) -> None:
        self._subjects = subjects

    async def __call__(
        self, context: RequestContext, operation: Operation, request: Request
    ) -> None:
        action = f"lambda:{operation.name}"
        identifier = request.get("imageIdentifier") or ""
        if is_slash_form(identifier):
            # Recorded: such an ARN is no image's, so no policy allows it, not even the root's.
            raise _caller(context).without_policy(action, identifier)
        if _caller(context).unrestricted:
            return
        self._require(context, action, await self._target(context, operation.name, request))
        for role in (request[name] for name in _ROLES if request.get(name)):
            self._require(context, "iam:PassRole", _Target(role))
        for given in _connectors(context.region, operation.name, request):
            subject = await self._subjects.connector(context.account, context.region, given)
            target = _target_of(subject, given)
            self._require(context, "lambda:PassNetworkConnector", target)

    async def microvm(self, context: RequestContext, action: str, microvm_id: str) -> None:
        """For our own routes about one MicroVM."""
        if not _caller(context).unrestricted:
            self._require(context, action, await self._of_microvm(context, microvm_id))

    def thing(self, context: RequestContext, action: str, resource: str) -> None:
        """For our own routes about anything else that has an ARN."""
        self._require(context, action, _Target(resource))

    async def _target(self, context: RequestContext, name: str, request: Request) -> _Target:
        account, region = context.account, context.region
        if name in _WITHOUT_RESOURCE:
            return _Target("*")
        if "microvmIdentifier" in request:
            return await self._of_microvm(context, context.microvm_id(request))
        if "imageIdentifier" in request:
            identifier = request["imageIdentifier"]
            return _target_of(await self._subjects.image(account, identifier), identifier)
        if "Identifier" in request:
            return await self._of_connector(context, request["Identifier"])
        if "Resource" in request:
            return await self._of_tagged(context, request)
        kind = {
            "CreateMicrovmImage": ("microvm-image", "name", "tags"),
            "CreateNetworkConnector": ("network-connector", "Name", "Tags"),
        }.get(name)
        if kind is None:
            return _Target("*")
        arn = f"arn:aws:lambda:{region}:{account}:{kind[0]}:{request[kind[1]]}"
        tags = tags_context(list((request.get(kind[2]) or {}).items()), "RequestTag")
        return _Target(arn, context=tags)

    async def _of_microvm(self, context: RequestContext, microvm_id: str) -> _Target:
        # Of one that is another account's or nobody's only the id is shown: it tells nothing.
        shown = microvm_arn(context.account, context.region, microvm_id)
        return _target_of(await self._subjects.microvm(context.account, microvm_id), shown)

    async def _of_connector(self, context: RequestContext, identifier: str) -> _Target:
        account, region = context.account, context.region
        prefix = f"arn:aws:lambda:{region}:{account}:network-connector:"
        shown = identifier if identifier.startswith("arn:") else f"{prefix}{identifier}"
        return _target_of(await self._subjects.connector(account, region, identifier), shown)

    async def _of_tagged(self, context: RequestContext, request: Request) -> _Target:
        arn = request["Resource"]
        if is_connector_arn(arn):
            found = await self._of_connector(context, arn)
        else:
            found = _target_of(await self._subjects.image(context.account, arn), arn)
        asked = dict(tags_context(list((request.get("Tags") or {}).items()), "RequestTag"))
        if request.get("TagKeys"):
            asked["aws:tagkeys"] = tuple(request["TagKeys"])
        return _Target(found.resource, found.shown, {**(found.context or {}), **asked})

    def _require(self, context: RequestContext, action: str, target: _Target) -> None:
        around = surroundings(context.now, context.region, context.source_ip)
        asked = Asked(action, target.resource, {**around, **(target.context or {})})
        _caller(context).require(asked, target.shown)


def _caller(context: RequestContext) -> Caller:
    if context.caller is None:
        raise AccessDenied("The caller of this request is not known.")
    return context.caller


def _target_of(subject: Subject, shown: str) -> _Target:
    return _Target(
        subject.arn,
        subject.arn or shown,
        tags_context(list(subject.tags.items()), "ResourceTag"),
    )


def _connectors(region: str, name: str, request: Request) -> Iterator[str]:
    """Those named, or the default that an absent or empty list means."""
    if name == "RunMicrovm":
        given: Sequence[str] | None = request.get("ingressNetworkConnectors")
        yield from given or (managed_arn(Ingress.HTTP, region),)
    if name in _NAMES_EGRESS:
        given = request.get("egressNetworkConnectors")
        yield from given or (managed_arn(Egress.INTERNET, region),)


def surroundings(now: datetime, region: str, source_ip: str | None) -> dict[str, tuple[str, ...]]:
    """What policies may ask about a request whatever it is about."""
    found: dict[str, tuple[str, ...]] = {
        "aws:currenttime": (now.strftime("%Y-%m-%dT%H:%M:%SZ"),),
        "aws:epochtime": (str(int(now.timestamp())),),
        "aws:requestedregion": (region,),
        "aws:securetransport": ("false",),
    }
    if source_ip is not None:
        found["aws:sourceip"] = (source_ip,)
    return found
