"""Fetches a code artifact from S3 with the rights of the image's build role.

boto3 is blocking, so a fetch runs in a thread and is cancelled between chunks. Every failure that
the owner of the image can mend becomes a :class:`BuildFailed` with the service's own code.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from microvmd.build.archive import Archive, ArchiveLimits, inspect
from microvmd.build.failure import BuildFailed, FailureCode

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sts.type_defs import CredentialsTypeDef

_CHUNK = 1 << 20
_CODES: dict[str, tuple[FailureCode, str]] = {
    "NoSuchKey": ("S3_NO_SUCH_KEY", "The object {uri} does not exist."),
    "404": ("S3_NO_SUCH_KEY", "The object {uri} does not exist."),
    "NoSuchBucket": ("S3_NO_SUCH_BUCKET", "The bucket of {uri} does not exist."),
    "InvalidObjectState": (
        "S3_INVALID_OBJECT",
        "The object {uri} is archived; restore it before you build.",
    ),
    "PermanentRedirect": (
        "S3_CROSS_REGION_ACCESS_DENIED",
        "The bucket of {uri} is in another region.",
    ),
    "301": ("S3_CROSS_REGION_ACCESS_DENIED", "The bucket of {uri} is in another region."),
    "AuthorizationHeaderMalformed": (
        "S3_CROSS_REGION_ACCESS_DENIED",
        "The bucket of {uri} is in another region.",
    ),
    "IllegalLocationConstraintException": (
        "S3_CROSS_REGION_ACCESS_DENIED",
        "The bucket of {uri} is in another region.",
    ),
}
_DENIED_CODES = (
    "AccessDenied",
    "403",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
)


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where S3 and STS answer, and who we are before we assume a build role.

    An endpoint of None is AWS's own; keys of None are boto3's own search order.
    """

    region: str
    s3_endpoint: str | None = None
    sts_endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 600.0
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)


@dataclass(frozen=True, slots=True)
class S3Location:
    """A parsed ``s3://bucket/key``."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "S3Location":
        """Split an S3 URI; a key may hold any character, also ``?`` and ``#``."""
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme != "s3" or not bucket or not key:
            raise BuildFailed("S3_NO_SUCH_KEY", f"{uri!r} is not of the form s3://bucket/key.")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


async def fetch(
    uri: str, build_role_arn: str, destination: Path, settings: SourceSettings
) -> Archive:
    """Download ``uri`` to ``destination`` as ``build_role_arn`` and check it.

    The file is removed again on any failure. Raises BuildFailed.
    """
    location = S3Location.parse(uri)
    stop = threading.Event()
    with contextlib.ExitStack() as undo:
        undo.callback(destination.unlink, missing_ok=True)
        undo.callback(stop.set)
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                await asyncio.to_thread(
                    _download, location, build_role_arn, destination, settings, stop
                )
        except TimeoutError:
            raise BuildFailed(
                "INTERNAL_PLATFORM_ERROR", f"Fetching {location} took too long."
            ) from None
        archive = await asyncio.to_thread(inspect, destination, settings.limits)
        undo.pop_all()
        return archive


def _download(
    location: S3Location,
    role_arn: str,
    destination: Path,
    settings: SourceSettings,
    stop: threading.Event,
) -> None:
    with _mapped_errors(location, role_arn):
        credentials = _assume(role_arn, settings)
        client = _s3(credentials, settings)
        body = client.get_object(Bucket=location.bucket, Key=location.key)["Body"]
        with contextlib.closing(body), destination.open("xb") as file:
            received = 0
            for chunk in body.iter_chunks(_CHUNK):
                received += len(chunk)
                if received > settings.limits.archive_bytes:
                    raise BuildFailed(
                        "ARCHIVE_INVALID",
                        f"{location} is larger than {settings.limits.archive_bytes} bytes.",
                    )
                if stop.is_set():
                    return
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())


def _assume(role_arn: str, settings: SourceSettings) -> "CredentialsTypeDef":
    client = boto3.session.Session().client(
        "sts",
        region_name=settings.region,
        endpoint_url=settings.sts_endpoint,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=_config(),
    )
    answer = client.assume_role(RoleArn=role_arn, RoleSessionName="microvmd-build")
    return answer["Credentials"]


def _s3(credentials: "CredentialsTypeDef", settings: SourceSettings) -> "S3Client":
    return boto3.session.Session().client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.s3_endpoint,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
        config=_config(path_style=settings.s3_endpoint is not None),
    )


def _config(*, path_style: bool = False) -> Config:
    # A custom endpoint seldom has a wildcard name for bucket.host, so it is addressed by path.
    return Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"total_max_attempts": 3},
        s3={"addressing_style": "path"} if path_style else None,
    )


@contextlib.contextmanager
def _mapped_errors(location: S3Location, role_arn: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _failure(error, location, role_arn) from error
    except BotoCoreError as error:
        raise BuildFailed(
            "INTERNAL_PLATFORM_ERROR", f"Fetching {location} failed: {type(error).__name__}."
        ) from error


def _failure(error: ClientError, location: S3Location, role_arn: str) -> BuildFailed:
    code = error.response.get("Error", {}).get("Code", "")
    if error.operation_name == "AssumeRole":
        return BuildFailed("S3_ACCESS_DENIED", f"The build role {role_arn} cannot be assumed.")
    if code in _CODES:
        failure, sentence = _CODES[code]
        return BuildFailed(failure, sentence.format(uri=location))
    if code in _DENIED_CODES:
        return BuildFailed(
            "S3_ACCESS_DENIED", f"The build role {role_arn} may not read {location}."
        )
    return BuildFailed("INTERNAL_PLATFORM_ERROR", f"Fetching {location} failed: {code}.")
