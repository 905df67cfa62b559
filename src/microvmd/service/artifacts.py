"""Code artifacts in S3: where a zip goes, and the way there for who is logged in to the console."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from microvmd.model.errors import AccessDenied, InternalError, NotFound, QuotaExceeded
from microvmd.service.context import ContextError, write_zip
from microvmd.settings.settings import Settings

if TYPE_CHECKING:
    from io import BufferedIOBase

    from types_boto3_s3 import S3Client

    # Not at run time: commands upload too, and have no use for the store behind it.
    from microvmd.api.credentials import Identity

EXAMPLES = Path(__file__).parents[3] / "examples"
"""Of the checkout; an installation has none."""
UPLOADS_AT_ONCE = 4
_ABSENT = ("404", "NoSuchBucket", "NoSuchKey", "NotFound")
_DENIED = ("403", "AccessDenied")


def upload(
    s3: "S3Client", account: str, region: str, name: str, archive: IO[bytes]
) -> tuple[str, bool]:
    """Put the zip where its content says; True when it was not there yet. Blocking.

    The bucket is made where it is missing. Raises ClientError.
    """
    archive.seek(0)
    digest = hashlib.file_digest(cast("BufferedIOBase", archive), "sha256").hexdigest()
    bucket = f"microvmd-artifacts-{account}-{region}"
    key = f"{name}/{digest[:16]}.zip"
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _ABSENT:
            raise
    else:
        return f"s3://{bucket}/{key}", False
    _make_bucket(s3, region, bucket)
    archive.seek(0)
    s3.put_object(Bucket=bucket, Key=key, Body=archive)
    return f"s3://{bucket}/{key}", True


def _make_bucket(s3: "S3Client", region: str, bucket: str) -> None:
    try:
        # us-east-1 is the one region that must not be named.
        if region == "us-east-1":
            s3.create_bucket(Bucket=bucket)
        else:
            place: Any = {"LocationConstraint": region}
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=place)
    except ClientError as error:
        if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
            raise


class Artifacts:
    """Implements ``console.visit.Artifacts``: uploads with the rights of who uploads.

    Only in local mode, where the S3 that builds read from knows the callers of this service; a real
    S3 does not know them, and with rights of our own anybody could write there.
    """

    def __init__(self, settings: Settings, examples: Path = EXAMPLES) -> None:
        self.offered = settings.aws.local
        self.limit = settings.console.upload_mib << 20
        self._endpoint, self._region = settings.api.url, settings.region
        self._places = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._folders = _examples(examples) if self.offered else {}
        self.examples: Mapping[str, str] = {
            name: _summary(folder) for name, folder in self._folders.items()
        }

    @asynccontextmanager
    async def file(self) -> AsyncIterator[IO[bytes]]:
        """A place on the disk for one archive, gone when the block ends."""
        if self._places.locked():
            raise QuotaExceeded("Too many uploads are under way. Try again in a moment.")
        async with self._places:
            with TemporaryFile() as file:
                yield file

    async def put(self, identity: "Identity", name: str, archive: IO[bytes]) -> str:
        """The ``s3://`` URI. Raises AccessDenied, or InternalError when S3 does not answer."""
        try:
            return await asyncio.to_thread(self._put, identity, name, archive)
        except ClientError as error:
            said = error.response.get("Error", {})
            if said.get("Code") in _DENIED:
                message = said.get("Message") or "S3 refused the upload."
                raise AccessDenied(message) from error
            raise InternalError(f"S3 did not take the archive: {error}") from error
        except BotoCoreError as error:
            raise InternalError(f"S3 does not answer: {error}") from error

    async def put_example(self, identity: "Identity", example: str) -> str:
        """The same for one of ``examples``."""
        folder = self._folders.get(example)
        if folder is None:
            raise NotFound(f"There is no example {example}.")
        async with self.file() as archive:
            try:
                await asyncio.to_thread(write_zip, folder, archive)
            except ContextError as error:
                raise InternalError(f"The example cannot be sent: {error}") from error
            return await self.put(identity, example, archive)

    def _put(self, identity: "Identity", name: str, archive: IO[bytes]) -> str:
        client = botocore.session.Session().create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint,
            aws_access_key_id=identity.access_key,
            aws_secret_access_key=identity.secret_key,
            aws_session_token=identity.session_token,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )
        s3 = cast("S3Client", client)
        return upload(s3, identity.account, self._region, name, archive)[0]


def _examples(folder: Path) -> dict[str, Path]:
    """Those that are images by themselves, by name."""
    try:
        found = sorted(folder.iterdir())
        return {path.name: path for path in found if (path / "Dockerfile").is_file()}
    except OSError:  # not there, or not for the service's user
        return {}


def _summary(folder: Path) -> str:
    """The first paragraph below the title of its README."""
    readme = folder / "README.md"
    lines = readme.read_text().splitlines()[1:] if readme.is_file() else []
    text = "\n".join(lines).strip().split("\n\n")[0]
    return " ".join(text.split()).replace("`", "")
