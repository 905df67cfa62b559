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
import threading
import time
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
SESSION_USED = 600.0
CLIENTS = 32
THREADS = 4
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "NotAuthorizedException"})
_STALE = frozenset({"ExpiredTokenException", "UnrecognizedClientException"})
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
        self._clients = _Clients(settings)

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
        self._clients.close()
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
        with self._told(key_id, role) as client:
            answer = client.generate_data_key(
                KeyId=key_id, KeySpec="AES_256", EncryptionContext={CONTEXT: owner}
            )
            self._check_state(client, answer["KeyId"])
        wrapped = base64.b64encode(answer["CiphertextBlob"]).decode()
        return Envelope(answer["KeyId"], wrapped, owner, key_id), DataKey(answer["Plaintext"])

    def _open(self, envelope: Envelope, role: str | None) -> DataKey:
        with self._told(envelope.key_arn, role) as client:
            answer = client.decrypt(
                CiphertextBlob=base64.b64decode(envelope.wrapped),
                KeyId=envelope.key_arn,
                EncryptionContext={CONTEXT: envelope.owner},
            )
            self._check_state(client, envelope.key_arn)
        return DataKey(answer["Plaintext"])

    @contextmanager
    def _told(self, key_id: str, role: str | None) -> "Iterator[KMSClient]":
        """A client, and in words what KMS or STS refused."""
        try:
            yield self._clients.of(role)
        except ClientError as error:
            if error_code(error) in _STALE:
                self._clients.forget(role)
            raise refusal(error, key_id, role) from error
        except (BotoCoreError, ValueError) as error:
            raise KeyRefused(
                KeyProblem.UNREACHABLE,
                f"KMS cannot be asked for the key {key_id}: {type(error).__name__}.",
            ) from error

    def _check_state(self, client: "KMSClient", key_id: str) -> None:
        if self._settings.check_state:
            state = client.describe_key(KeyId=key_id)["KeyMetadata"].get("KeyState", "Enabled")
            if state != "Enabled":
                raise KeyRefused(
                    KeyProblem.UNUSABLE,
                    f"The KMS key {key_id} {_STATES.get(state, f'is {state}')}.",
                )


class _Clients:
    """Clients of KMS by the role that they act for; making one costs more than a call."""

    def __init__(self, settings: KmsSettings) -> None:
        self._settings = settings
        self._session = boto3.session.Session()
        self._made: dict[str | None, tuple[KMSClient, float]] = {}
        self._lock = threading.Lock()

    def of(self, role: str | None) -> "KMSClient":
        """Calls STS first where the role has no session yet, or one that ends soon."""
        with self._lock:
            client, until = self._made.get(role, (None, 0.0))
            if client is not None and time.monotonic() < until:
                return client
        keys = None if role is None else self._assume(role)
        with self._lock:
            client = self._make(keys)
            self._made.pop(role, None)  # closed when whoever still uses it lets go of it
            self._made[role] = client, time.monotonic() + SESSION_USED
            while len(self._made) > CLIENTS:
                del self._made[next(iter(self._made))]
            return client

    def forget(self, role: str | None) -> None:
        """Its session is refused: the next call gets a new one."""
        with self._lock:
            self._made.pop(role, None)

    def close(self) -> None:
        with self._lock:
            for client, _ in self._made.values():
                client.close()
            self._made.clear()

    def _make(self, keys: "CredentialsTypeDef | None") -> "KMSClient":
        settings = self._settings
        return self._session.client(
            "kms",
            region_name=settings.region,
            endpoint_url=settings.kms_endpoint,
            aws_access_key_id=keys["AccessKeyId"] if keys else settings.access_key,
            aws_secret_access_key=keys["SecretAccessKey"] if keys else settings.secret_key,
            aws_session_token=keys["SessionToken"] if keys else None,
            config=_config(),
        )

    def _assume(self, role: str) -> "CredentialsTypeDef":
        settings = self._settings
        with self._lock:
            client = self._session.client(
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
