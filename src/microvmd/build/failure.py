"""The one error of a build that its owner caused or can mend.

Everything else that goes wrong is ours: the caller logs it and reports
``INTERNAL_PLATFORM_ERROR``. Codes are those of the service's troubleshooting page; the reason of a
failed Dockerfile is the live service's sentence without a code.
"""

from typing import Literal

FailureCode = Literal[
    "S3_ACCESS_DENIED",
    "S3_NO_SUCH_KEY",
    "S3_NO_SUCH_BUCKET",
    "S3_INVALID_OBJECT",
    "S3_CROSS_REGION_ACCESS_DENIED",
    "ARCHIVE_DOCKERFILE_NOT_FOUND",
    "ARCHIVE_INVALID",
    "CONTAINER_BUILD_FAILED",
    "DISK_STORAGE_FULL",
    "INTERNAL_PLATFORM_ERROR",
]

CONTAINER_BUILD_FAILED = "The container image build failed."


class BuildFailed(Exception):
    """A build ended without an image; ``reason`` is the ``stateReason`` that the API shows."""

    def __init__(self, code: FailureCode, sentence: str) -> None:
        """Make the reason ``<CODE>: <sentence>``, or the live text for a failed Dockerfile."""
        self.code = code
        self.reason = sentence if sentence == CONTAINER_BUILD_FAILED else f"{code}: {sentence}"
        super().__init__(self.reason)
