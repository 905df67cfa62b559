"""STS and CloudWatch Logs (moto's) as the node uses them: clients, callers, errors, threads."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from microvmd.node.aws_access import AwsAccess, Threads, as_caller, error_code
from microvmd.node.roles import BotoSts, RoleCredentials, RoleRefused, RoleUnavailable
from tests.awslab import refusing
from tests.buildlab import aws

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::123456789012:role/app"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with aws() as (found, _):
        yield found


def access(url: str) -> AwsAccess:
    return AwsAccess("us-east-1", url, url, "test", "test")


async def assume(url: str, role_arn: str = ROLE, lifetime: int = 900) -> RoleCredentials:
    with Threads("test", 1) as threads:
        return await BotoSts(access(url), threads).assume(role_arn, "microvm-1", lifetime)


async def test_a_role_is_assumed(url: str) -> None:
    found = await assume(url)
    assert found.access_key.startswith("ASIA")
    assert 890 < found.expires_at - time.time() < 910
    assert found.expires_at - found.issued_at == pytest.approx(900, abs=5)


async def test_an_sts_that_is_down_is_no_refusal() -> None:
    with pytest.raises(RoleUnavailable):
        await assume(NOWHERE)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, RoleRefused),
        ("ValidationError", 400, RoleRefused),
        ("InvalidClientTokenId", 403, RoleUnavailable),
        ("Throttling", 400, RoleUnavailable),
        ("InternalFailure", 500, RoleUnavailable),
    ],
)
async def test_whose_fault_an_error_is(code: str, status: int, kind: type[Exception]) -> None:
    with refusing(code, status) as refusal, pytest.raises(kind, match=code):
        await assume(refusal.url)


async def test_what_is_no_role_is_refused_unasked() -> None:
    with pytest.raises(RoleRefused):
        await assume(NOWHERE, role_arn="x")


async def test_one_client_of_logs_calls_with_the_rights_of_many(url: str) -> None:
    client = access(url).logs_client()
    signed: list[str] = []
    client.meta.events.register(
        "before-send.logs.*", lambda request, **_: signed.append(request.headers["Authorization"])
    )
    for key in ("ASIAONE", "ASIATWO"):
        as_caller(key, "secret", "token", client.create_log_group, logGroupName=key)
    texts = [text.decode() if isinstance(text, bytes) else text for text in signed]
    assert ["ASIAONE/" in texts[0], "ASIATWO/" in texts[1]] == [True, True]
    with pytest.raises(LookupError):
        client.describe_log_groups()


async def test_errors_have_a_name(url: str) -> None:
    client = access(url).logs_client()
    with pytest.raises(ClientError) as caught:
        as_caller("A", "s", "t", client.describe_log_streams, logGroupName="none")
    assert error_code(caught.value) == "ResourceNotFoundException"


async def test_threads_that_hang_do_not_hold_up_the_end() -> None:
    gate = threading.Event()
    async with asyncio.timeout(5):
        with Threads("test", 1) as threads:
            async with asyncio.TaskGroup() as tasks:
                hanging = tasks.create_task(threads.run(gate.wait))
                queued = tasks.create_task(threads.run(gate.wait))
                await asyncio.sleep(0)
                hanging.cancel()
                queued.cancel()
    gate.set()


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(AwsAccess("r", access_key="a", secret_key="hidden"))
