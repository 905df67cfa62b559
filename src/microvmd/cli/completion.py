"""What the shell offers after TAB: MicroVMs and images that there are.

A shell that completes must not wait nor be told of errors: whatever goes wrong offers nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import boto3
import typer
from botocore.config import Config

from microvmd.cli.client import LIVE
from microvmd.settings import settings

if TYPE_CHECKING:
    from types_boto3_lambda_microvms import LambdaMicroVMsClient

LIMIT_S = 2
Offers = list[tuple[str, str]]


def microvms(incomplete: str) -> Offers:
    """Ids of MicroVMs that live, with their state and image."""
    return _quietly(lambda: _microvms(incomplete))


def images(incomplete: str) -> Offers:
    """Names of images, with their state."""
    return _quietly(lambda: _images(incomplete))


def _quietly(ask: Callable[[], Iterator[tuple[str, str]]]) -> Offers:
    with suppress(Exception):  # the border to the shell, which would show a traceback at the prompt
        return list(ask())
    return []


def _microvms(incomplete: str) -> Iterator[tuple[str, str]]:
    wanted = (incomplete, f"microvm-{incomplete}")
    for item in _client().list_microvms(maxResults=50)["items"]:
        name, image = item["microvmId"], item["imageArn"].rpartition(":")[2]
        if item["state"] in LIVE and name.startswith(wanted):
            yield name, f"{item['state']} {image}"


def _images(incomplete: str) -> Iterator[tuple[str, str]]:
    for item in _client().list_microvm_images()["items"]:
        if item["name"].startswith(incomplete):
            yield item["name"], item["state"]


def _client() -> "LambdaMicroVMsClient":
    limits = Config(connect_timeout=1, read_timeout=LIMIT_S, retries={"max_attempts": 1})
    session = boto3.Session(profile_name=settings.load().profile)
    return session.client("lambda-microvms", config=limits)


Identifier = Annotated[
    str,
    typer.Argument(help="MicroVM id, or enough of its begin.", autocompletion=microvms),
]
Identifiers = Annotated[
    list[str],
    typer.Argument(help="MicroVM ids, or enough of their begin.", autocompletion=microvms),
]
"""Arguments of the commands on MicroVMs."""
