"""May this caller ask this of a local AWS service? And what the sessions of STS stand for.

The local server judges nothing, so all of it is judged here: the caller's policies for each right
that a request needs, and for ``sts:AssumeRole`` the trust policy of the role too. So no session is
more than what somebody with a right to it has given.
"""

import re
from dataclasses import replace

from microvmd.api.credentials import Identity
from microvmd.api.local.actions import ForeignRequest, asked_of
from microvmd.api.local.iam import NOTHING_TEXT, LocalIam
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.errors import AccessDenied
from microvmd.model.pattern import Context
from microvmd.model.policy import Asked, Policy
from microvmd.model.trust import trusts

_ROLE_ARN = re.compile(r"arn:aws[a-zA-Z-]*:iam::(\d{12}):role/(?:[^/]+/)*([^/]+)")
_ALWAYS_ALLOWED = frozenset({"sts:GetCallerIdentity", "sts:GetSessionToken"})
_ISSUED = frozenset({"sts:AssumeRole", "sts:GetSessionToken", "sts:GetFederationToken"})


class ForeignRights:
    """``operator`` is the default account, whose root also is the service itself: it assumes the
    roles of images and MicroVMs of any account, as Lambda does."""

    def __init__(self, iam: LocalIam, operator: str) -> None:
        self._iam = iam
        self._operator = operator

    async def check(self, caller: Caller, request: ForeignRequest, context: Context) -> None:
        """Raise AccessDenied; MalformedPolicy for session policies that are none."""
        for asked in asked_of(request):
            if asked.action.startswith("sts:"):
                await self._check_sts(caller, replace(asked, context=context), request)
            elif not caller.unrestricted:
                caller.require(replace(asked, context=context))

    def note(self, request: ForeignRequest) -> None:
        """After a request that may have changed what roles may do."""
        if request.service == "iam" and not request.action.startswith(("Get", "List")):
            self._iam.forget(request.account)

    async def session(
        self, learned: Identity, caller: Identity, request: ForeignRequest
    ) -> Identity:
        """What credentials that STS has just handed out stand for."""
        parameters = request.parameters
        policies = [parameters["Policy"]] if parameters.get("Policy") else []
        for name, arn in sorted(parameters.items()):
            if name.startswith("PolicyArns.member."):
                policies.append(await self._iam.managed(learned.account, arn) or NOTHING_TEXT)
        issued = replace(
            learned,
            issuer=caller.access_key,
            session_policies=(*caller.session_policies, *policies),
        )
        if request.action == "AssumeRole":
            found = _ROLE_ARN.fullmatch(parameters.get("RoleArn", ""))
            role = "" if found is None else found[2]
            # The limits of a role's own session are not those of who assumed it.
            return replace(
                issued,
                role=role,
                session_name=parameters.get("RoleSessionName"),
                session_policies=tuple(policies),
            )
        if request.action == "GetFederationToken":
            return replace(issued, federated=parameters.get("Name", ""))
        return replace(issued, user=caller.user)

    async def _check_sts(self, caller: Caller, asked: Asked, request: ForeignRequest) -> None:
        if asked.action in _ISSUED and request.parameters.get("Policy"):
            Policy.parse(request.parameters["Policy"])
        if asked.action == "sts:AssumeRole":
            await self._check_assume(caller, asked)
        elif asked.action in _ISSUED and caller.kind not in (CallerKind.ROOT, CallerKind.USER):
            raise AccessDenied(f"Cannot call {request.action} with session credentials")
        elif asked.action not in _ALWAYS_ALLOWED and not caller.unrestricted:
            caller.require(asked)

    async def _check_assume(self, caller: Caller, asked: Asked) -> None:
        found = _ROLE_ARN.fullmatch(asked.resource or "")
        if found is None:
            raise AccessDenied(f"{asked.resource} is not the ARN of a role.")
        account, role = found[1], found[2]
        if caller.unrestricted and caller.arn == f"arn:aws:iam::{self._operator}:root":
            return
        caller.require(asked)
        trust = await self._iam.trust(account, role)
        absent_but_own = trust is None and account == caller.account
        if not absent_but_own and not trusts(
            trust or "", caller, asked.resource or "", asked.context
        ):
            raise AccessDenied(
                f"User: {caller.arn} is not authorized to perform: sts:AssumeRole on resource: "
                f"{asked.resource}"
            )
