"""Data keys from AWS KMS: made for one snapshot, kept beside it in encrypted form only.

`Envelope` is that encrypted form. To open one, KMS is asked with the rights of whoever runs the
MicroVM, so a key that is disabled, deleted or no longer granted stops what it protects. A plain key
is remembered for `cache_seconds` at most, for the caller that got it, and overwritten afterwards.

The owner of an envelope (an image version, a MicroVM) is its encryption context: KMS opens it for
no other, and shows it in the records of AWS CloudTrail.

boto3 blocks, so every call is made in a thread of our own.
"""

import asyncio
import base64
import ctypes
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from microvmd.messages.keys import KeyProblem, KeyRefused
from microvmd.node.aws_access import Threads, error_code

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient
    from types_boto3_sts.type_defs import CredentialsTypeDef

CONTEXT = "microvmd:owner"
SESSION = "microvmd-kms"
SESSION_SECONDS = 900
"""The shortest that STS gives."""
THREADS = 4
PR_SET_DUMPABLE = 4
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "NotAuthorizedException"})
_UNUSABLE = {
    "DisabledException": "is disabled",
    "NotFoundException": "does not exist",
    "InvalidArnException": "has no valid name",
    "InvalidKeyUsageException": "is not for encryption",
    "IncorrectKeyException": "is not the one that it was encrypted with",
    "InvalidCiphertextException": "did not encrypt this",
    "KMSInvalidStateException": "is in a state in which it cannot be used",
    "ValidationException": "has no valid name",
}
_STATES = {
    "Disabled": "is disabled",
    "PendingDeletion": "is about to be deleted",
    "PendingImport": "has no key material",
}


@dataclass(frozen=True, slots=True)
class KmsSettings:
    """Where KMS and STS answer, and who asks where no role is given.

    An endpoint of None is AWS's own; keys of None are boto3's own search order. `check_state` asks
    for the state of a key after each call, for a KMS that does not refuse a disabled key (moto).
    """

    region: str
    kms_endpoint: str | None = None
    sts_endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    cache_seconds: float = 60.0
    check_state: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """An encrypted data key. `wrapped` is KMS's ciphertext in base64."""

    key_arn: str
    wrapped: str
    owner: str
    asked: str
    """The key as the caller named it, which may be an alias."""

    def __post_init__(self) -> None:
        values = (self.key_arn, self.wrapped, self.owner, self.asked)
        if not all(isinstance(value, str) for value in values):
            raise TypeError("an envelope holds text")


class DataKey:
    """A plain data key. Leaving its context overwrites it."""

    __slots__ = ("material",)

    def __init__(self, material: bytes | bytearray) -> None:
        self.material = bytearray(material)

    def __repr__(self) -> str:
        return "DataKey(...)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wipe()

    def copy(self) -> "DataKey":
        return DataKey(self.material)

    def wipe(self) -> None:
        self.material[:] = bytes(len(self.material))


@dataclass(slots=True)
class _Cached:
    key: DataKey
    forget: asyncio.TimerHandle


class Kms:
    """Makes and opens data keys. A context manager: its end forgets all plain keys."""

    def __init__(self, settings: KmsSettings) -> None:
        self._settings = settings
        self._opened: dict[tuple[str | None, Envelope], _Cached] = {}
        self._threads = Threads("kms", THREADS)

    async def __aenter__(self) -> Self:
        self._threads.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.__exit__(kind, error, trace)
        for one in list(self._opened):
            self._forget(one)

    async def make(self, key_id: str, owner: str, role: str | None) -> tuple[Envelope, DataKey]:
        """A new data key under `key_id`, as `role` or as the service itself. Raises KeyRefused."""
        return await self._threads.run(lambda: self._make(key_id, owner, role))

    async def open(self, envelope: Envelope, role: str | None) -> DataKey:
        """The plain data key; the caller wipes it. Raises KeyRefused."""
        cached = self._opened.get((role, envelope))
        if cached is not None:
            return cached.key.copy()
        key = await self._threads.run(lambda: self._open(envelope, role))
        self._remember((role, envelope), key)
        return key

    def _remember(self, name: tuple[str | None, Envelope], key: DataKey) -> None:
        seconds = self._settings.cache_seconds
        if seconds > 0 and name not in self._opened:
            forget = asyncio.get_running_loop().call_later(seconds, self._forget, name)
            self._opened[name] = _Cached(key.copy(), forget)

    def _forget(self, name: tuple[str | None, Envelope]) -> None:
        cached = self._opened.pop(name)
        cached.forget.cancel()
        cached.key.wipe()

    def _make(self, key_id: str, owner: str, role: str | None) -> tuple[Envelope, DataKey]:
        with _told(key_id, role), closing(self._client(role)) as client:
            answer = client.generate_data_key(
                KeyId=key_id, KeySpec="AES_256", EncryptionContext={CONTEXT: owner}
            )
            self._check_state(client, answer["KeyId"])
        wrapped = base64.b64encode(answer["CiphertextBlob"]).decode()
        return Envelope(answer["KeyId"], wrapped, owner, key_id), DataKey(answer["Plaintext"])

    def _open(self, envelope: Envelope, role: str | None) -> DataKey:
        with _told(envelope.key_arn, role), closing(self._client(role)) as client:
            answer = client.decrypt(
                CiphertextBlob=base64.b64decode(envelope.wrapped),
                KeyId=envelope.key_arn,
                EncryptionContext={CONTEXT: envelope.owner},
            )
            self._check_state(client, envelope.key_arn)
        return DataKey(answer["Plaintext"])

    def _check_state(self, client: "KMSClient", key_id: str) -> None:
        if self._settings.check_state:
            state = client.describe_key(KeyId=key_id)["KeyMetadata"].get("KeyState", "Enabled")
            if state != "Enabled":
                raise KeyRefused(
                    KeyProblem.UNUSABLE,
                    f"The KMS key {key_id} {_STATES.get(state, f'is {state}')}.",
                )

    def _client(self, role: str | None) -> "KMSClient":
        settings = self._settings
        session = boto3.session.Session()
        access, secret = settings.access_key, settings.secret_key
        token: str | None = None
        if role is not None:
            found = self._assume(session, role)
            access, secret = found["AccessKeyId"], found["SecretAccessKey"]
            token = found["SessionToken"]
        return session.client(
            "kms",
            region_name=settings.region,
            endpoint_url=settings.kms_endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=_config(),
        )

    def _assume(self, session: "boto3.session.Session", role: str) -> "CredentialsTypeDef":
        settings = self._settings
        client = session.client(
            "sts",
            region_name=settings.region,
            endpoint_url=settings.sts_endpoint,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key,
            config=_config(),
        )
        with closing(client):
            answer = client.assume_role(
                RoleArn=role, RoleSessionName=SESSION, DurationSeconds=SESSION_SECONDS
            )
        return answer["Credentials"]


def _config() -> Config:
    # A start waits for this: an answer that takes longer is none.
    return Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})


@contextmanager
def _told(key_id: str, role: str | None) -> Iterator[None]:
    """Say in words what KMS or STS refused."""
    try:
        yield
    except ClientError as error:
        raise refusal(error, key_id, role) from error
    except (BotoCoreError, ValueError) as error:
        raise KeyRefused(
            KeyProblem.UNREACHABLE,
            f"KMS cannot be asked for the key {key_id}: {type(error).__name__}.",
        ) from error


def refusal(error: ClientError, key_id: str, role: str | None) -> KeyRefused:
    """What an error answer means for whoever named the key."""
    code = error_code(error)
    if error.operation_name == "AssumeRole":
        return KeyRefused(
            KeyProblem.DENIED,
            f"The role {role} cannot be assumed to use the KMS key {key_id}.",
        )
    if code in _DENIED:
        who = f"the role {role}" if role else "the service"
        return KeyRefused(KeyProblem.DENIED, f"The KMS key {key_id} may not be used by {who}.")
    if code in _UNUSABLE:
        return KeyRefused(KeyProblem.UNUSABLE, f"The KMS key {key_id} {_UNUSABLE[code]}.")
    return KeyRefused(KeyProblem.UNREACHABLE, f"KMS did not answer for the key {key_id}: {code}.")


def never_dumped() -> None:
    """Let the kernel write no core dump of this process, which holds plain keys at times."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl PR_SET_DUMPABLE: {os.strerror(code)}")
