"""Who may sign: access keys, their secrets, and the caller that each stands for."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pydantic import TypeAdapter

from microvmd.control.directory import Directory
from microvmd.control.sessions import Session, Sessions
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.policy import Policy

Limits = tuple[tuple[Policy, ...], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """One access key. ``session_token`` and ``expires_at`` are set for temporary ones.

    Without ``user``, ``role`` and ``federated`` it is the root of the account.
    """

    access_key: str
    secret_key: str = field(repr=False)
    account: str
    session_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    user: str | None = None
    role: str | None = None
    """The role that the session has assumed."""
    federated: str | None = None
    session_name: str | None = None
    session_policies: tuple[str, ...] = ()
    """Documents that limit the session further."""
    issuer: str | None = None
    """The access key that got this session; when that is revoked, so is this."""

    def expired(self, now: datetime) -> bool:
        """Whether it was temporary and its time is over: it stands for nobody any more."""
        return self.expires_at is not None and self.expires_at <= now


class Credentials(Protocol):
    """Where the API looks a signer up."""

    async def find(self, access_key: str) -> Identity | None:
        """Return the identity of an access key, or None when nobody has it.

        Also one that has expired: its signer is told so, and whoever lets it in must look.
        """
        ...

    async def learn(self, identity: Identity) -> None:
        """Remember temporary credentials that the local STS has just handed out."""
        ...

    async def caller(self, identity: Identity, now: datetime) -> Caller:
        """Who that is and what it may do now; called once its signature has been verified."""
        ...


class Roles(Protocol):
    """What the roles of an account may do."""

    async def policies(self, account: str, role: str) -> tuple[Policy, ...] | None:
        """None where there is no such role."""
        ...


@dataclass(slots=True)
class KeyRing:
    """Root keys given at start, the keys of users, and temporary ones as STS issues them.

    ``fallback`` limits the sessions of roles that nobody has made (local mode has such).
    """

    roots: Iterable[Identity]
    directory: Directory | None = None
    sessions: Sessions | None = None
    roles: Roles | None = None
    fallback: tuple[Policy, ...] = ()
    clock: Callable[[], float] = time.time
    _roots: dict[str, Identity] = field(init=False)

    def __post_init__(self) -> None:
        self._roots = {identity.access_key: identity for identity in self.roots}

    async def find(self, access_key: str) -> Identity | None:
        """A session is good for as long as the key that got it."""
        found = self._roots.get(access_key) or self._of_user(access_key)
        if found is not None or self.sessions is None:
            return found
        session = self.sessions.find(access_key)
        if session is None:
            return None
        identity = _IDENTITY.validate_json(session.content)
        if identity.issuer is not None and await self.find(identity.issuer) is None:
            return None
        return identity

    async def learn(self, identity: Identity) -> None:
        """Keep a session; a long-term key is never replaced by one."""
        if self.sessions is None or identity.expires_at is None:
            return
        await self.sessions.add(
            Session(
                identity.access_key,
                identity.account,
                identity.expires_at.timestamp(),
                _IDENTITY.dump_json(identity).decode(),
            )
        )

    async def caller(self, identity: Identity, now: datetime) -> Caller:
        """A role is asked for anew each time: what was taken from it is gone at once."""
        if self.directory is not None:
            self.directory.used(identity.access_key, now.timestamp())
        account = identity.account
        limits: Limits = _limits(identity)
        if identity.role is not None:
            return await self._of_role(identity, limits, now)
        if identity.federated is not None:
            issuer = await self._issuer(identity, now)
            arn = f"arn:aws:sts::{account}:federated-user/{identity.federated}"
            # Without a policy of its own a federated session may do nothing.
            given: Limits = limits or ((),)
            limits = (*issuer.limits, *given)
            kind = issuer.kind if issuer.kind is CallerKind.ROOT else CallerKind.FEDERATED
            return Caller(arn, account, kind, identity.federated, issuer.policies, limits)
        if identity.user is None:
            return Caller(f"arn:aws:iam::{account}:root", account, CallerKind.ROOT, limits=limits)
        policies = (
            () if self.directory is None else self.directory.policies_of(account, identity.user)
        )
        arn = f"arn:aws:iam::{account}:user/{identity.user}"
        return Caller(arn, account, CallerKind.USER, identity.user, policies, limits)

    def _of_user(self, access_key: str) -> Identity | None:
        if self.directory is None:
            return None
        key = self.directory.key(access_key, self.clock())
        if key is None:
            return None
        secret = self.directory.secret(key)
        return Identity(key.access_key, secret, key.account, user=key.user)

    async def _of_role(self, identity: Identity, limits: Limits, now: datetime) -> Caller:
        account, role = identity.account, identity.role or ""
        found = None if self.roles is None else await self.roles.policies(account, role)
        if found is None:
            # Nobody says what this role may do: no more than who assumed it.
            found = self.fallback
            issuer = await self._issuer(identity, now)
            if issuer.kind is not CallerKind.ROOT:
                limits = (*limits, *issuer.limits, issuer.policies)
        arn = f"arn:aws:sts::{account}:assumed-role/{role}/{identity.session_name}"
        return Caller(arn, account, CallerKind.ROLE, role, found, limits)

    async def _issuer(self, identity: Identity, now: datetime) -> Caller:
        found = None if identity.issuer is None else await self.find(identity.issuer)
        if found is None:
            return Caller("", identity.account, CallerKind.FEDERATED)
        return await self.caller(found, now)


def _limits(identity: Identity) -> Limits:
    return tuple((Policy.parse(text),) for text in identity.session_policies)


_IDENTITY = TypeAdapter(Identity)
