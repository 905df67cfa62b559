"""Sends lines to CloudWatch Logs with the rights of a role.

Groups and streams are made when they are missing, also when somebody deletes them meanwhile.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from microvmd.messages.node import LogDelivery
from microvmd.node.aws_access import AwsAccess, Threads, as_caller, error_code
from microvmd.node.log_events import batches
from microvmd.node.log_files import Entry
from microvmd.node.roles import RoleCredentials

if TYPE_CHECKING:
    from types_boto3_logs import CloudWatchLogsClient
    from types_boto3_logs.type_defs import InputLogEventTypeDef

log = structlog.get_logger(__name__)

_MISSING = "ResourceNotFoundException"
_EXISTS = "ResourceAlreadyExistsException"
_DENIED = frozenset({"AccessDeniedException", "AccessDenied"})
# These lines cannot be sent, now or later; what follows them may.
_UNFIT = frozenset({"InvalidParameterException", "ValidationException"})
_SENT_BEFORE = "DataAlreadyAcceptedException"


class DeliveryDenied(Exception):
    """The role may not write there."""


class DeliveryFailed(Exception):
    """Not now; later it may go."""


class CloudWatchLogs:
    """The endpoint of the settings."""

    def __init__(self, access: AwsAccess, threads: Threads) -> None:
        self._access = access
        self._threads = threads
        self._client: CloudWatchLogsClient | None = None

    async def send(self, to: LogDelivery, role: RoleCredentials, entries: Sequence[Entry]) -> None:
        """Send all lines. Raises DeliveryDenied or DeliveryFailed; then some may have been sent."""
        await self._threads.run(
            lambda: as_caller(role.access_key, role.secret_key, role.token, self._send, to, entries)
        )

    def _send(self, to: LogDelivery, entries: Sequence[Entry]) -> None:
        try:
            client = self._client = self._client or self._access.logs_client()
            for batch in batches(entries):
                _put(client, to, batch)
        except ClientError as error:
            code = error_code(error)
            kind = DeliveryDenied if code in _DENIED else DeliveryFailed
            raise kind(f"{to.group} {to.stream}: {code}") from error
        except (BotoCoreError, OSError) as error:
            raise DeliveryFailed(f"{to.group} {to.stream}: {error}") from error


def _put(
    client: "CloudWatchLogsClient", to: LogDelivery, batch: list["InputLogEventTypeDef"]
) -> None:
    try:
        try:
            client.put_log_events(logGroupName=to.group, logStreamName=to.stream, logEvents=batch)
        except ClientError as error:
            if error_code(error) != _MISSING:
                raise
            _make(client, to)
            client.put_log_events(logGroupName=to.group, logStreamName=to.stream, logEvents=batch)
    except ClientError as error:
        if error_code(error) in _UNFIT:
            log.warning("delivery.unfit", stream=to.stream, lines=len(batch), error=str(error))
        elif error_code(error) != _SENT_BEFORE:
            raise


def _make(client: "CloudWatchLogsClient", to: LogDelivery) -> None:
    try:
        _make_stream(client, to)
    except ClientError as error:
        if error_code(error) != _MISSING:
            raise
        try:
            client.create_log_group(logGroupName=to.group)
        except ClientError as another:
            if error_code(another) != _EXISTS:
                raise
        _make_stream(client, to)


def _make_stream(client: "CloudWatchLogsClient", to: LogDelivery) -> None:
    try:
        client.create_log_stream(logGroupName=to.group, logStreamName=to.stream)
    except ClientError as error:
        if error_code(error) != _EXISTS:
            raise
