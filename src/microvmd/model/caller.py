"""Who calls and what the caller may do: the one place where a refusal gets its words."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from microvmd.model.errors import AccessDenied
from microvmd.model.pattern import Context
from microvmd.model.policy import Asked, Policy, Verdict, allow_everything, evaluate

_NO_POLICY = "because no identity-based policy allows the {} action"


class CallerKind(StrEnum):
    """As ``aws:PrincipalType`` names them."""

    ROOT = "Account"
    USER = "User"
    ROLE = "AssumedRole"
    FEDERATED = "FederatedUser"


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven identity. ``limits`` are sets of session policies: each must allow a request too."""

    arn: str
    account: str
    kind: CallerKind
    name: str = ""
    """Of the user, the role or the federated user."""
    policies: tuple[Policy, ...] = ()
    limits: tuple[tuple[Policy, ...], ...] = ()

    @classmethod
    def root(cls, account: str) -> "Caller":
        """May do everything in its account."""
        return cls(f"arn:aws:iam::{account}:root", account, CallerKind.ROOT)

    @property
    def unrestricted(self) -> bool:
        """True when no request of this caller needs to be looked at."""
        own = self.kind is CallerKind.ROOT or allow_everything(self.policies)
        return own and all(allow_everything(limit) for limit in self.limits)

    def is_root_of(self, account: str) -> bool:
        """Its owner, with all rights."""
        return self.kind is CallerKind.ROOT and self.account == account and self.unrestricted

    def require(self, asked: Asked, shown: str | None = None) -> None:
        """Raise AccessDenied unless the request is allowed.

        ``shown`` is the resource in the text, where the real one must not be told.
        """
        complete = Asked(asked.action, asked.resource, {**self._context(), **asked.context})
        reason = self._refusal(complete)
        if reason is not None:
            raise self._refused(asked.action, shown or asked.resource or "*", reason)

    def without_policy(self, action: str, resource: str) -> AccessDenied:
        """The refusal of what no policy can allow."""
        return self._refused(action, resource, _NO_POLICY.format(action))

    def _refused(self, action: str, resource: str, reason: str) -> AccessDenied:
        return AccessDenied(
            f"User: {self.arn} is not authorized to perform: {action} on resource: "
            f"{resource} {reason}"
        )

    def _refusal(self, asked: Asked) -> str | None:
        own = Verdict.ALLOWED if self.kind is CallerKind.ROOT else evaluate(self.policies, asked)
        limits = [evaluate(limit, asked) for limit in self.limits]
        if own is Verdict.DENIED:
            return "with an explicit deny in an identity-based policy"
        if Verdict.DENIED in limits:
            return "with an explicit deny in a session policy"
        if own is not Verdict.ALLOWED:
            return _NO_POLICY.format(asked.action)
        if Verdict.NOT_ALLOWED in limits:
            return f"because no session policy allows the {asked.action} action"
        return None

    def _context(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {
            "aws:principalarn": (self.principal_arn,),
            "aws:principalaccount": (self.account,),
            "aws:principaltype": (self.kind.value,),
        }
        if self.kind is CallerKind.USER:
            found["aws:username"] = (self.name,)
        return found

    @property
    def principal_arn(self) -> str:
        """Of a session, the ARN of its role."""
        if self.kind is CallerKind.ROLE:
            return f"arn:aws:iam::{self.account}:role/{self.name}"
        return self.arn


def tags_context(tags: Sequence[tuple[str, str]], kind: str) -> Context:
    """``kind`` is ``ResourceTag`` or ``RequestTag``; RequestTag adds ``aws:TagKeys``."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in tags:
        found[f"aws:{kind}/{key}".lower()] = (value,)
    if kind == "RequestTag" and tags:
        found["aws:tagkeys"] = tuple(key for key, _ in tags)
    return found
