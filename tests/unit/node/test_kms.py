"""Data keys: made and opened by a KMS, refused in words, and forgotten in time."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import ClientError

from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.node.kms import CLIENTS, DataKey, Envelope, Kms, KmsSettings, refusal
from tests import buildlab

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

pytestmark = pytest.mark.anyio

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/run"
OWNER = "000000000000/app/1.0"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with buildlab.aws() as (url, _):
        yield url


@pytest.fixture
def admin(endpoint: str) -> "Iterator[KMSClient]":
    client = boto3.client(
        "kms",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield client
    client.close()


@pytest.fixture
def settings(endpoint: str) -> KmsSettings:
    return KmsSettings(REGION, endpoint, endpoint, "test", "test", check_state=True)


def _key(admin: "KMSClient") -> str:
    return admin.create_key()["KeyMetadata"]["Arn"]


def _id(key_arn: str) -> str:
    return key_arn.rpartition("/")[2]


async def test_what_was_made_can_be_opened(settings: KmsSettings, admin: "KMSClient") -> None:
    key_arn = _key(admin)
    async with Kms(settings) as kms:
        envelope, made = await kms.make(key_arn, OWNER, None)
        assert (envelope.key_arn, envelope.owner) == (key_arn, OWNER)
        assert len(made.material) == 32
        assert made.material not in base64.b64decode(envelope.wrapped)
        assert (await kms.open(envelope, None)).material == made.material
        assert (await kms.open(envelope, ROLE)).material == made.material


async def test_an_alias_names_a_key(settings: KmsSettings, admin: "KMSClient") -> None:
    key_arn = _key(admin)
    admin.create_alias(AliasName="alias/app", TargetKeyId=key_arn)
    alias = next(a["AliasArn"] for a in admin.list_aliases()["Aliases"] if "app" in a["AliasName"])
    async with Kms(settings) as kms:
        envelope, made = await kms.make(alias, OWNER, None)
        assert envelope.key_arn == key_arn, "the key, whatever the alias names later"
        assert (await kms.open(envelope, None)).material == made.material


async def test_an_envelope_is_of_one_owner(settings: KmsSettings, admin: "KMSClient") -> None:
    async with Kms(settings) as kms:
        envelope, _ = await kms.make(_key(admin), OWNER, None)
        with pytest.raises(KeyRefused, match="did not encrypt") as refused:
            await kms.open(replace(envelope, owner="microvm-1"), None)
    assert refused.value.problem is KeyProblem.UNUSABLE


async def test_a_disabled_key_refuses_as_soon_as_the_cache_forgets(
    settings: KmsSettings, admin: "KMSClient"
) -> None:
    key_arn = _key(admin)
    async with Kms(replace(settings, cache_seconds=0.3)) as kms:
        envelope, made = await kms.make(key_arn, OWNER, None)
        await kms.open(envelope, None)
        (cached,) = kms._opened.values()
        admin.disable_key(KeyId=_id(key_arn))
        assert (await kms.open(envelope, None)).material == made.material, "still remembered"
        with pytest.raises(KeyRefused, match="is disabled"):
            await kms.open(envelope, ROLE)  # another caller has to ask for itself
        passed = asyncio.Event()
        asyncio.get_running_loop().call_at(cached.forget.when() + 0.01, passed.set)
        await passed.wait()
        assert not kms._opened
        assert cached.key.material == bytes(32), "overwritten"
        with pytest.raises(KeyRefused, match=f"{key_arn} is disabled") as refused:
            await kms.open(envelope, None)
        assert refused.value.problem is KeyProblem.UNUSABLE
        with pytest.raises(KeyRefused, match="is disabled"):
            await kms.make(key_arn, OWNER, None)
        admin.enable_key(KeyId=_id(key_arn))
        assert (await kms.open(envelope, None)).material == made.material


async def test_sessions_of_roles_are_used_again_and_replaced_when_refused(
    settings: KmsSettings, admin: "KMSClient"
) -> None:
    async with Kms(replace(settings, cache_seconds=0)) as kms:
        envelope, _ = await kms.make(_key(admin), OWNER, ROLE)
        first = kms._clients.of(ROLE)
        await kms.open(envelope, ROLE)
        assert kms._clients.of(ROLE) is first
        assert kms._clients.of(None) is not first
        expired = ClientError({"Error": {"Code": "ExpiredTokenException"}}, "Decrypt")
        with pytest.raises(KeyRefused) as refused, kms._told(KEY, ROLE):
            raise expired
        assert refused.value.problem is KeyProblem.UNREACHABLE
        assert kms._clients.of(ROLE) is not first
        for number in range(CLIENTS + 2):
            kms._clients.of(f"{ROLE}-{number}")
        assert len(kms._clients._made) == CLIENTS


async def test_without_a_cache_every_open_asks(settings: KmsSettings, admin: "KMSClient") -> None:
    key_arn = _key(admin)
    async with Kms(replace(settings, cache_seconds=0)) as kms:
        envelope, _ = await kms.make(key_arn, OWNER, None)
        await kms.open(envelope, None)
        admin.schedule_key_deletion(KeyId=_id(key_arn))
        with pytest.raises(KeyRefused, match="about to be deleted"):
            await kms.open(envelope, None)


async def test_the_end_forgets_all_keys(settings: KmsSettings, admin: "KMSClient") -> None:
    async with Kms(settings) as kms:
        envelope, _ = await kms.make(_key(admin), OWNER, None)
        opened = await kms.open(envelope, None)
        (cached,) = kms._opened.values()
    assert cached.key.material == bytes(32)
    assert opened.material != bytes(32), "a copy is its holder's"


async def test_a_key_that_does_not_exist(settings: KmsSettings) -> None:
    async with Kms(settings) as kms:
        with pytest.raises(KeyRefused, match="does not exist") as refused:
            await kms.make("11111111-2222-3333-4444-555555555555", OWNER, None)
        assert refused.value.problem is KeyProblem.UNUSABLE


@pytest.mark.parametrize("role", [None, ROLE])
async def test_no_kms_to_ask(role: str | None, settings: KmsSettings) -> None:
    nowhere = replace(settings, kms_endpoint=NOWHERE, sts_endpoint=NOWHERE)
    async with Kms(nowhere) as kms:
        with pytest.raises(KeyRefused, match=f"cannot be asked for the key {KEY}") as refused:
            await kms.open(Envelope(KEY, "aaaa", OWNER, KEY), role)
        assert refused.value.problem is KeyProblem.UNREACHABLE


def _error(code: str, operation: str = "Decrypt") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "hidden"}}, operation)


DENIED, UNUSABLE, UNREACHABLE = KeyProblem.DENIED, KeyProblem.UNUSABLE, KeyProblem.UNREACHABLE


@pytest.mark.parametrize(
    ("code", "role", "problem", "text"),
    [
        ("AccessDeniedException", ROLE, DENIED, f"may not be used by the role {ROLE}"),
        ("AccessDeniedException", None, DENIED, "may not be used by the service"),
        ("DisabledException", None, UNUSABLE, "is disabled"),
        ("KMSInvalidStateException", None, UNUSABLE, "in a state"),
        ("KMSInternalException", None, UNREACHABLE, "did not answer"),
        ("ThrottlingException", None, UNREACHABLE, "did not answer"),
    ],
)
def test_refusals_in_words(code: str, role: str | None, problem: KeyProblem, text: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "hidden"}}, "Decrypt")
    refused = refusal(error, KEY, role)
    assert refused.problem is problem
    assert text in str(refused)
    assert KEY in str(refused)


def test_a_role_that_cannot_be_assumed() -> None:
    error = ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole")
    refused = refusal(error, KEY, ROLE)
    assert refused.problem is DENIED
    assert str(refused) == f"The role {ROLE} cannot be assumed to use the KMS key {KEY}."


def test_a_key_does_not_show() -> None:
    with DataKey(b"plain" * 6) as key:
        assert "plain" not in repr(key)
    assert key.material == bytes(30)


def test_settings_do_not_show_secrets() -> None:
    assert "hush" not in repr(KmsSettings(REGION, secret_key="hush"))
