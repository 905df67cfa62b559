"""The credentials of roles: assumed by the node, handed to guests, never written to disk.

A session has the credentials of one role for one guest. They are renewed at half of their life, so
that a guest that asks always gets some that last, also when STS is down for a while: then the old
ones are served until they expire, and the guest waits for nothing longer than a moment.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from microvmd.node.aws_access import AwsAccess, Threads, error_code

if TYPE_CHECKING:
    from types_boto3_sts import STSClient

log = structlog.get_logger(__name__)

LIFETIME = 3600
"""Seconds that the credentials of an execution role last, as on AWS."""
SHORTEST = 900
"""Seconds that STS gives at least. What a build may leave in a snapshot lasts no longer."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until STS is asked again after the first failure, and after many."""
CONCURRENT = 4
REMEMBERED = 4096
# Of STS, about the role and not about us or the moment.
_REFUSALS = frozenset(
    {"AccessDenied", "AccessDeniedException", "NoSuchEntity", "ValidationError"}
    | {"InvalidParameterValue", "MalformedPolicyDocument", "RegionDisabledException"}
)


class RoleRefused(Exception):
    """STS does not let us assume the role."""


class RoleUnavailable(Exception):
    """STS cannot be asked now, or not by us; later it may."""


@dataclass(frozen=True, slots=True)
class RoleCredentials:
    """Temporary credentials; times in seconds since the epoch."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    issued_at: float
    expires_at: float


class Sts(Protocol):
    """Who gives credentials of a role."""

    async def assume(self, role_arn: str, name: str, lifetime: int) -> RoleCredentials:
        """Raise RoleRefused or RoleUnavailable. `name` is the session's, `lifetime` in seconds."""
        ...


class BotoSts:
    """The STS of the settings."""

    def __init__(self, access: AwsAccess, threads: Threads) -> None:
        self._access = access
        self._threads = threads
        self._client: STSClient | None = None

    async def assume(self, role_arn: str, name: str, lifetime: int) -> RoleCredentials:
        return await self._threads.run(lambda: self._assume(role_arn, name, lifetime))

    def _assume(self, role_arn: str, name: str, lifetime: int) -> RoleCredentials:
        try:
            # Two threads may both make one at first: the later is kept, either works.
            client = self._client = self._client or self._access.sts_client()
            answer = client.assume_role(
                RoleArn=role_arn, RoleSessionName=name, DurationSeconds=lifetime
            )
        except ClientError as error:
            code = error_code(error)
            kind = RoleRefused if code in _REFUSALS else RoleUnavailable
            raise kind(f"{role_arn}: {code}") from error
        except ParamValidationError as error:
            raise RoleRefused(f"{role_arn} is no ARN of a role") from error
        except (BotoCoreError, OSError) as error:
            raise RoleUnavailable(f"{role_arn}: {error}") from error
        given = answer["Credentials"]
        return RoleCredentials(
            given["AccessKeyId"],
            given["SecretAccessKey"],
            given["SessionToken"],
            time.time(),
            given["Expiration"].timestamp(),
        )


class RoleSession:
    """The credentials of one role for one guest. Comes from `Roles`, which keeps them fresh."""

    def __init__(
        self,
        sts: Sts,
        role_arn: str,
        name: str,
        *,
        lifetime: int = LIFETIME,
        old: RoleCredentials | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.role_arn = role_arn
        self.name = name
        self.refused = False
        """STS refused the role when it was asked last."""
        self._sts = sts
        self._lifetime = lifetime
        self._held = old
        self._clock = clock
        self._asked = asyncio.Event()
        self._tried = asyncio.Event()

    def held(self) -> RoleCredentials | None:
        """What is at hand, if it has not expired."""
        held = self._held
        return held if held is not None and held.expires_at > self._clock() else None

    async def current(self, wait: float) -> RoleCredentials | None:
        """Credentials that are valid, or None; waits up to `wait` seconds for the first answer.

        After a resume that answer decides too: older ones are given only where STS gives none.
        """
        self._asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._tried.wait()
        return self.held()

    def begin(self) -> None:
        """Ask STS now, and not only when somebody needs credentials."""
        self._asked.set()

    async def keep(self) -> None:
        """Run until cancelled: from the first need on, renew at half life, try again on failure."""
        await self._asked.wait()
        failures = 0
        while True:
            try:
                self._held = await self._sts.assume(self.role_arn, self.name, self._lifetime)
            except (RoleRefused, RoleUnavailable) as error:
                self.refused = isinstance(error, RoleRefused)
                log.warning("role.unavailable", session=self.name, error=str(error))
                pause = min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE)
                failures = min(failures + 1, 16)
            else:
                self.refused, failures = False, 0
                held = self._held
                pause = max((held.expires_at - held.issued_at) / 2, FIRST_PAUSE)
            self._tried.set()
            await asyncio.sleep(pause)


class Roles:
    """Makes sessions and keeps them; its own tasks do the work. Use `open_roles`."""

    def __init__(
        self, sts: Sts, tasks: asyncio.TaskGroup, clock: Callable[[], float] = time.time
    ) -> None:
        self.sts = sts
        self._tasks = tasks
        self._clock = clock
        self._last: dict[tuple[str, str], RoleCredentials] = {}

    @contextmanager
    def session(
        self, role_arn: str, name: str, *, lifetime: int = LIFETIME, lazily: bool = False
    ) -> Iterator[RoleSession]:
        """Credentials of a role while the context lasts; `lazily`: when somebody asks for them.

        What a former session of the same name held is served only where STS gives nothing new.
        """
        old = self._last.pop((role_arn, name), None)
        session = RoleSession(
            self.sts, role_arn, name, lifetime=lifetime, old=old, clock=self._clock
        )
        if not lazily:
            session.begin()
        keeping = self._tasks.create_task(_guarded(session), name=f"role of {name}")
        try:
            yield session
        finally:
            keeping.cancel()
            self._remember(session)

    def _remember(self, session: RoleSession) -> None:
        held = session.held()
        if held is None:
            return
        self._last[session.role_arn, session.name] = held
        if len(self._last) > REMEMBERED:
            now = self._clock()
            fresh = [item for item in self._last.items() if item[1].expires_at > now]
            self._last = dict(fresh[-REMEMBERED:])


async def _guarded(session: RoleSession) -> None:
    """A task's border: one role's trouble must not end the task group of all."""
    try:
        await session.keep()
    except Exception:
        log.exception("role.failed", session=session.name)


@asynccontextmanager
async def open_roles(access: AwsAccess) -> AsyncIterator[Roles]:
    """Roles assumed at the STS of the settings."""
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(Threads("sts", CONCURRENT))
        async with asyncio.TaskGroup() as tasks:
            yield Roles(BotoSts(access, threads), tasks)
