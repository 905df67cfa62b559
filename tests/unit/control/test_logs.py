"""Where the output of builds and MicroVMs goes."""

from dataclasses import replace

import pytest

from microvmd.control.logs import build_delivery, build_log, run_delivery, run_log
from microvmd.messages.node import LogDelivery, LogTarget
from microvmd.model.identifiers import ImageVersion
from microvmd.model.image import Build, Logging, Version, VersionConfig
from microvmd.model.microvm import MicroVm, Phase
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN

GROUP = "/aws/lambda-microvms/app"
OWN_GROUP = f"{ACCOUNT}:{GROUP}"
RUN_STREAM = "2001/09/09[2.0]microvm-1"
BUILD_STREAM = "build/2.0/b-1"
DELIVERED_BUILD = "2001/09/09[2.0]microvm-b-1"
BUILD_ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"
OWN = Logging(group="mine", stream="one")
OFF = Logging(disabled=True)


def version(logging: Logging | None = None) -> Version:
    config = VersionConfig("base", BUILD_ROLE, "s3://b/k", logging=logging)
    build = Build("b-1", "X86_64", "INTEL", "x", 1_000_000_000.0)
    return Version(ACCOUNT, "app", ImageVersion(2), config, build, 0.0, 0.0)


def microvm(logging: Logging | None = None, role: str | None = ROLE) -> MicroVm:
    return MicroVm(
        microvm_id="microvm-1",
        account=ACCOUNT,
        endpoint_id="e",
        image_arn=IMAGE_ARN,
        image_version="2.0",
        phase=Phase.RUNNING,
        generation=1,
        started_at=1_000_000_000.0,
        execution_role_arn=role,
        logging=logging,
    )


@pytest.mark.parametrize("logging", [None, OWN, OFF])
def test_the_own_store_knows_default_names_only(logging: Logging | None) -> None:
    assert run_log(microvm(logging), version()) == LogTarget(OWN_GROUP, RUN_STREAM)
    built = version(logging)
    assert build_log(built, built.build) == LogTarget(OWN_GROUP, BUILD_STREAM)


@pytest.mark.parametrize(
    ("logging", "names"),
    [
        (None, (GROUP, RUN_STREAM)),
        (Logging(group="g"), ("g", RUN_STREAM)),
        (Logging(stream="s"), (GROUP, "s")),
        (OWN, ("mine", "one")),
        (OFF, None),
        (replace(OWN, disabled=True), None),
    ],
)
def test_delivery_of_a_run(logging: Logging | None, names: tuple[str, str] | None) -> None:
    expected = None if names is None else LogDelivery(*names, ROLE)
    assert run_delivery(microvm(logging), version()) == expected


def test_a_run_without_a_role_delivers_nothing() -> None:
    assert run_delivery(microvm(OWN, role=None), version()) is None


def test_a_run_does_not_inherit_the_logging_of_its_image() -> None:
    assert run_delivery(microvm(), version(OFF)) == LogDelivery(GROUP, RUN_STREAM, ROLE)


@pytest.mark.parametrize(
    ("logging", "names"), [(None, (GROUP, DELIVERED_BUILD)), (OWN, ("mine", "one")), (OFF, None)]
)
def test_delivery_of_a_build(logging: Logging | None, names: tuple[str, str] | None) -> None:
    expected = None if names is None else LogDelivery(*names, BUILD_ROLE)
    built = version(logging)
    assert build_delivery(built, built.build) == expected
