"""The image or version that a request names, or the recorded refusal; and those that our own
records name, where they are still there.

Another account's things answer like those that do not exist.
"""

from dataclasses import dataclass

from microvmd.control.store import Transaction
from microvmd.messages.node import VersionKey
from microvmd.model.errors import NotFound
from microvmd.model.identifiers import ImageArn, ImageVersion
from microvmd.model.image import Image, Version, VersionState, latest_active, latest_failed
from microvmd.model.microvm import MicroVm


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image with what follows from its versions."""

    image: Image
    latest_active: str | None
    latest_failed: str | None


def image_named(tx: Transaction, account: str, arn: ImageArn) -> Image:
    """Raise NotFound for what this account does not have."""
    image = find_image(tx, account, arn)
    if image is None:
        raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")
    return image


def find_image(tx: Transaction, account: str, arn: ImageArn) -> Image | None:
    """None for what this account does not have, in this partition and region."""
    image = tx.image(account, arn.name) if arn.account == account else None
    return None if image is None or image.arn != arn else image


def view_named(tx: Transaction, account: str, arn: ImageArn) -> ImageView:
    return view_of(tx, image_named(tx, account, arn))


def view_of(tx: Transaction, image: Image) -> ImageView:
    versions = tx.versions(image.account, image.name)
    active, failed = latest_active(versions), latest_failed(versions)
    return ImageView(
        image,
        None if active is None else str(active),
        None if failed is None else str(failed),
    )


def version_named(
    tx: Transaction, account: str, arn: ImageArn, text: str, *, deleted: bool = False
) -> Version:
    """``text`` is the number as the caller wrote it; one in another form names nothing.

    Deleted versions are found only where ``deleted`` asks for them.
    """
    number = ImageVersion.read(text)
    version = None
    if number is not None and find_image(tx, account, arn) is not None:
        version = tx.version(account, arn.name, number)
    if version is None or (version.state is VersionState.DELETED and not deleted):
        raise NotFound(f"MicroVMImage not found for MicroVMImage: {arn}, Version: {text}")
    return version


def version_of(tx: Transaction, microvm: MicroVm) -> Version | None:
    """The version that a MicroVM was started from."""
    arn = ImageArn.parse(microvm.image_arn)
    return tx.version(arn.account, arn.name, ImageVersion.parse(microvm.image_version))


def version_at(tx: Transaction, key: VersionKey) -> Version | None:
    """The version that a node names."""
    return tx.version(key.account, key.image_name, ImageVersion.parse(key.number))
