"""One exercise for each operation, carried out by every client: calls and what must come of them.

An exercise is run once for a client and its result kept, so that the test of the operation and the
coverage page, which needs all of them, can both ask for it in any order.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from botocore.config import Config

from microvmd.api.operations import MICROVMS, load_operations
from tests.clients.client_boto3 import Boto3Client
from tests.clients.live import ACCOUNT, CONFIG, REGION, LiveApi
from tests.clients.outcome import Client
from tests.clients.served import SETUP

SECONDS = 30
BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
BUILD_ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
EXECUTION_ROLE = f"arn:aws:iam::{ACCOUNT}:role/execution"
MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector"
IMAGE = {
    "baseImageArn": BASE,
    "buildRoleArn": BUILD_ROLE,
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
}
"""The least that a version of an image needs."""

OFFERED = tuple(
    operation.name
    for operation in load_operations()
    if operation.service == MICROVMS or "NetworkConnector" in operation.name
)
"""Every operation that microvmd offers."""

Exercise = Callable[[Client, "World"], None]
REGISTERED: dict[str, Exercise] = {}


def exercise(operation: str) -> Callable[[Exercise], Exercise]:
    def register(function: Exercise) -> Exercise:
        assert operation not in REGISTERED, f"{operation} has two exercises"
        REGISTERED[operation] = function
        return function

    return register


def image_arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:{name}"


@dataclass
class World:
    """What exercises start from. It is arranged by a client that does not count as tested."""

    api: LiveApi
    _numbers: Iterable[int] = field(default_factory=itertools.count)

    @cached_property
    def arrange(self) -> Boto3Client:
        return Boto3Client(self.api, config=CONFIG.merge(Config(user_agent_extra=SETUP)))

    @cached_property
    def key(self) -> str:
        """The ARN of a key in KMS."""
        kms = self.api.client("kms")
        try:
            arn: str = kms.create_key()["KeyMetadata"]["Arn"]
        finally:
            kms.close()
        return arn

    def name(self, prefix: str = "image") -> str:
        return f"{prefix}-{next(iter(self._numbers))}"

    def image(self, name: str | None = None, **options: Any) -> str:
        """The ARN of an image whose version 1.0 is built."""
        arn = self.unbuilt_image(name=name or self.name(), **options)
        self.until("GetMicrovmImage", "CREATED", imageIdentifier=arn)
        return arn

    def unbuilt_image(self, **options: Any) -> str:
        made = self.arrange.call("CreateMicrovmImage", **{**IMAGE, **options})
        assert made.status == 201, made
        arn: str = made.document["imageArn"]
        return arn

    def second_version(self, arn: str, **options: Any) -> None:
        made = self.arrange.call("UpdateMicrovmImage", imageIdentifier=arn, **{**IMAGE, **options})
        assert made.status == 200, made
        self.until("GetMicrovmImage", "UPDATED", imageIdentifier=arn)

    def microvm(self, image: str, **options: Any) -> str:
        """The id of a RUNNING MicroVM."""
        made = self.arrange.call("RunMicrovm", imageIdentifier=image, **options)
        assert made.status == 200, made
        microvm: str = made.document["microvmId"]
        self.until("GetMicrovm", "RUNNING", microvmIdentifier=microvm)
        return microvm

    def until(self, operation: str, state: str, **members: Any) -> Mapping[str, Any]:
        """Poll as clients of this API do: it has no waiters."""
        deadline = time.monotonic() + SECONDS
        while (found := self.arrange.call(operation, **members)).document.get("state") != state:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found.document

    def until_gone(self, operation: str, **members: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while (found := self.arrange.call(operation, **members)).status != 404:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def close(self) -> None:
        self.arrange.close()


@dataclass
class Exercises:
    """Runs each exercise once for each client."""

    world: World
    clients: Mapping[str, Client]
    _done: dict[tuple[str, str], Exception | None] = field(default_factory=dict)

    def run(self, client: str, operation: str) -> None:
        """Raises what the exercise raised, however often it is asked."""
        key = client, operation
        if key not in self._done:
            self._done[key] = None
            try:
                REGISTERED[operation](self.clients[client], self.world)
            except Exception as error:  # told by every test that needs it
                self._done[key] = error
        failure = self._done[key]
        if failure is not None:
            raise failure

    def run_all(self) -> None:
        for client, operation in self.pairs():
            self.run(client, operation)

    def pairs(self) -> list[tuple[str, str]]:
        return [
            (name, operation)
            for name, client in self.clients.items()
            for operation in REGISTERED
            if operation in client.model.operations
        ]
