"""Names of things: ARNs, MicroVM ids, image versions, endpoints. Parse, format, compare.

Formats are the recorded ones (reference, section 1): colons inside image ARNs, ``microvm-<uuid>``,
versions ``major.minor``, and an endpoint id that is *not* the uuid of the MicroVM.
"""

import re
import uuid
from dataclasses import dataclass
from typing import Self

from microvmd.model.errors import AccessDenied, ValidationError

_IMAGE_ARN = re.compile(
    r"arn:(?P<partition>aws[a-zA-Z-]*):lambda:(?P<region>[a-z0-9-]+):(?P<account>\d{12}|aws)"
    r":microvm-image:(?P<name>[a-zA-Z0-9_-]{1,64})"
)
_SLASH_ARN = re.compile(r"arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]*:[a-z0-9]*:microvm-image/.*")
_ARN_PARTS = ("AWS partition", "service", "AWS region partition", "AWS account", "resource")
_MICROVM_ID = re.compile(r"microvm-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")
_CONNECTOR_ARN = re.compile(
    r"arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:(?:aws|\d{12}):network-connector:\S+"
)


@dataclass(frozen=True, slots=True)
class ImageArn:
    """``arn:<partition>:lambda:<region>:<account>:microvm-image:<name>``.

    The account ``aws`` marks a managed image.
    """

    partition: str
    region: str
    account: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise the recorded error for a bare name (400) or the slash form (403)."""
        if is_slash_form(text):
            raise AccessDenied(f"User is not authorized to access the resource {text}")
        found = _IMAGE_ARN.fullmatch(text)
        if found is None:
            raise ValidationError(f"Invalid ARN format: {text}")
        return cls(**found.groupdict())

    @classmethod
    def parse_run(cls, text: str) -> Self:
        """The image of RunMicrovm, which has texts of its own for what is no ARN at all.

        Recorded for a bare name; the others are those of the same parser, which is public (``Arn``
        of the AWS SDK for Java).
        """
        prefix, *parts = text.split(":", 5)
        if prefix != "arn" or not parts:
            raise ValidationError("Malformed ARN - doesn't start with 'arn:'")
        if len(parts) < len(_ARN_PARTS):
            raise ValidationError(f"Malformed ARN - no {_ARN_PARTS[len(parts) - 1]} specified")
        if not parts[-1]:
            raise ValidationError(f"Malformed ARN - no {_ARN_PARTS[-1]} specified")
        return cls.parse(text)

    @property
    def managed(self) -> bool:
        return self.account == "aws"

    def __str__(self) -> str:
        return f"arn:{self.partition}:lambda:{self.region}:{self.account}:microvm-image:{self.name}"


def is_slash_form(text: str) -> bool:
    """Tell ``...:microvm-image/<name>``, which is refused as a thing that nobody may touch."""
    return _SLASH_ARN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class ImageVersion:
    """``1.0``, ``2.0``, ...: one for each create or update of an image."""

    major: int
    minor: int = 0

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None for what is no version number: such a version does not exist."""
        found = _VERSION.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """A number that we wrote ourselves; ValueError for anything else."""
        found = cls.read(text)
        if found is None:
            raise ValueError(f"not an image version: {text!r}")
        return found

    def next(self) -> "ImageVersion":
        return ImageVersion(self.major + 1)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def new_microvm_id() -> str:
    """Clients cut at the prefix, so it is part of the id."""
    return f"microvm-{uuid.uuid4()}"


def is_microvm_id(text: str) -> bool:
    """Tell a well-formed id; the store tells whether it exists."""
    return _MICROVM_ID.fullmatch(text) is not None


def microvm_arn(account: str, region: str, microvm_id: str) -> str:
    """The other name of a MicroVM, which policies and records know it by."""
    return f"arn:aws:lambda:{region}:{account}:microvm:{microvm_id}"


def microvm_id_in(text: str, account: str, region: str) -> str:
    """What identifies a MicroVM is its id or its ARN (the model); a foreign ARN identifies none."""
    return text.removeprefix(microvm_arn(account, region, ""))


def new_endpoint_id() -> str:
    """The first label of an endpoint; independent of the MicroVM id, as recorded."""
    return str(uuid.uuid4())


def new_build_id() -> str:
    return str(uuid.uuid4())


def endpoint_name(endpoint_id: str, region: str, domain: str, port: int = 443) -> str:
    """The bare host that ``GetMicrovm`` returns; a port only where the edge has no 443."""
    host = f"{endpoint_id}.lambda-microvm.{region}.{domain}"
    return host if port == 443 else f"{host}:{port}"


def is_connector_arn(text: str) -> bool:
    """Tell a network connector's ARN from a bare name such as ``ALL_INGRESS``."""
    return _CONNECTOR_ARN.fullmatch(text) is not None
