"""The node's way to other AWS services: STS for roles, CloudWatch Logs for output.

boto3 is blocking, so each service gets a few threads of its own: an endpoint that hangs takes the
threads of nobody else. One client serves all roles, since a client costs milliseconds and most of
a megabyte; whose rights a call takes is decided by the call.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar, cast

import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, ReadOnlyCredentials
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from types_boto3_logs import CloudWatchLogsClient
    from types_boto3_sts import STSClient

P = ParamSpec("P")
R = TypeVar("R")

_CALLER: contextvars.ContextVar[ReadOnlyCredentials] = contextvars.ContextVar("caller")


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """Where STS and CloudWatch Logs answer, and who we are before we assume a role.

    An endpoint of None is AWS's own; keys of None are boto3's own search order.
    """

    region: str
    sts_endpoint: str | None = None
    logs_endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)

    def sts_client(self) -> "STSClient":
        client = botocore.session.Session().create_client(
            "sts",
            region_name=self.region,
            endpoint_url=self.sts_endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=_config(),
        )
        return cast("STSClient", client)

    def logs_client(self) -> "CloudWatchLogsClient":
        """Its calls are signed with what `as_caller` names."""
        session = botocore.session.Session()
        session.register_component("credential_provider", CredentialResolver([_OfTheCall()]))
        client = session.create_client(
            "logs", region_name=self.region, endpoint_url=self.logs_endpoint, config=_config()
        )
        return cast("CloudWatchLogsClient", client)


def _config() -> Config:
    # Whoever calls tries again by itself, with a pause that it chooses.
    return Config(
        connect_timeout=3,
        read_timeout=5,
        retries={"total_max_attempts": 1},
        max_pool_connections=8,
    )


class _CallersCredentials(BotocoreCredentials):
    """Credentials that are looked up whenever a request is signed."""

    def __init__(self) -> None:
        super().__init__("of-the-call", "of-the-call", method="of-the-call")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return _CALLER.get()


class _OfTheCall(CredentialProvider):
    METHOD = CANONICAL_NAME = "of-the-call"

    def load(self) -> BotocoreCredentials:
        return _CallersCredentials()


def as_caller(
    access_key: str,
    secret_key: str,
    token: str,
    call: Callable[P, R],
    *args: P.args,
    **kw: P.kwargs,
) -> R:
    """Make a call of a client of `AwsAccess.logs_client` with these temporary credentials."""
    reset = _CALLER.set(ReadOnlyCredentials(access_key, secret_key, token))
    try:
        return call(*args, **kw)
    finally:
        _CALLER.reset(reset)


class Threads:
    """A few threads for the blocking calls of one service; a context manager that ends them.

    Calls in progress at its end are not waited for: the client's own limits end them.
    """

    def __init__(self, name: str, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[[], R]) -> R:
        """The result of a call in one of the threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, call)


def error_code(error: ClientError) -> str:
    """The service's name for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))
