"""How the service finds out whether it may assume a role, before it begins what needs it.

Real STS is asked by assuming the role. The local one gives every role, so there nothing is asked
but, where ``aws.roles_must_exist`` is set, the local IAM for the role.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import botocore.session
import structlog
from botocore.exceptions import BotoCoreError, ClientError

from microvmd.node.aws_access import Threads, error_code
from microvmd.node.roles import SHORTEST, RoleRefused, RoleUnavailable, Sts
from microvmd.service.keys import AccessKey
from microvmd.settings.settings import Settings

if TYPE_CHECKING:
    from types_boto3_iam import IAMClient

log = structlog.get_logger(__name__)

SESSION = "microvmd-check"
"""Name of the session that is only a question, in the records of AWS CloudTrail."""


def role_check(
    settings: Settings, key: AccessKey, sts: Sts, threads: Threads
) -> Callable[[str], Awaitable[bool]] | None:
    """Whether a role may be assumed; None where every role may be."""
    if not settings.aws.local:
        return lambda role_arn: _assumed(sts, role_arn)
    if not settings.aws.roles_must_exist:
        return None
    client = cast(
        "IAMClient",
        botocore.session.Session().create_client(
            "iam",
            region_name=settings.region,
            endpoint_url=settings.api.url,
            aws_access_key_id=key.access_key,
            aws_secret_access_key=key.secret_key,
        ),
    )
    return lambda role_arn: threads.run(lambda: _exists(client, role_arn))


async def _assumed(sts: Sts, role_arn: str) -> bool:
    try:
        await sts.assume(role_arn, SESSION, SHORTEST)
    except RoleRefused as error:
        log.info("role.refused", error=str(error))
        return False
    except RoleUnavailable as error:
        log.warning("role.unavailable", error=str(error))
    return True


def _exists(client: "IAMClient", role_arn: str) -> bool:
    try:
        found = client.get_role(RoleName=role_arn.rpartition("/")[2])["Role"]["Arn"]
    except ClientError as error:
        return error_code(error) != "NoSuchEntity"
    except BotoCoreError as error:
        log.warning("role.unavailable", error=str(error))
        return True
    return found == role_arn
