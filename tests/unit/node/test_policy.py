"""Well-formed commands that an honest service does not send are not carried out."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from microvmd.messages.node import (
    AdoptMicrovm,
    BuildVersion,
    ChangeEgress,
    Command,
    DeleteVersion,
    LogDelivery,
    LogTarget,
    ProvisionConnector,
    ResumeMicrovm,
    StartMicrovm,
    SuspendMicrovm,
    VersionKey,
)
from microvmd.model.egress import INTERNET, Egress, EgressMap, MappedSubnet, Protocol, Reach
from microvmd.model.image import VersionConfig
from microvmd.model.microvm import Phase
from microvmd.node.policy import NodePolicy
from tests.nodemessages import ID, SAMPLES, SPEC

OFFICE = IPv4Network("10.99.0.0/16")
OTHER = "111111111111"
POLICY = NodePolicy(
    "us-east-1",
    networks=EgressMap(
        {
            "subnet-1": MappedSubnet((OFFICE,)),
            "subnet-2": MappedSubnet((IPv4Network("10.98.0.0/16"),), frozenset({OTHER})),
        }
    ),
)
ROLE = f"arn:aws:iam::{OTHER}:role/run"
CONNECTOR = f"nc-{ID[8:]}"


def _reaching(network: str) -> Egress:
    return Egress(reaches=(Reach(f"{CONNECTOR}:1", IPv4Network(network)),))


@pytest.mark.parametrize("command", SAMPLES[:6], ids=lambda one: type(one).__name__)
def test_an_honest_service_is_not_refused(command: Command) -> None:
    assert POLICY.refusal(command) is None


def test_a_version_is_built_again_from_its_own_files_only() -> None:
    command = SAMPLES[3]
    assert isinstance(command, BuildVersion)
    own = replace(command.version, build=command.build_id)
    assert POLICY.refusal(replace(command, version=own, source=command.version)) is None
    for other in (
        replace(command.version, account=OTHER),
        replace(command.version, image_name="other"),
        replace(command.version, number="2.0"),
    ):
        refused = POLICY.refusal(replace(command, version=own, source=other))
        assert refused == "the version is built from the files of another"


@pytest.mark.parametrize("command", [StartMicrovm, ResumeMicrovm])
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"version": VersionKey(OTHER, "app", "1.0")}, "ARN is another's"),
        ({"version": VersionKey("000000000000", "other", "1.0")}, "ARN is another's"),
        ({"image_arn": SPEC.image_arn.replace("us-east-1", "eu-west-1")}, "ARN is another's"),
        ({"execution_role_arn": ROLE}, "role is of another account"),
        ({"log": LogTarget(f"{OTHER}:/aws/lambda-microvms/app", "s")}, "log is of another image"),
        ({"log": LogTarget("000000000000:other", "s")}, "log is of another image"),
        ({"delivery": LogDelivery("g", "s", ROLE)}, "rights of another role"),
        ({"execution_role_arn": None}, "rights of another role"),
        ({"egress": _reaching("0.0.0.0/0")}, "no subnet of the settings"),
        ({"egress": _reaching("127.0.0.0/8")}, "no subnet of the settings"),
        ({"egress": _reaching("10.98.1.0/24")}, "no subnet of the settings"),
        ({"egress": _reaching("10.98.0.0/15")}, "no subnet of the settings"),
    ],
)
def test_what_does_not_agree_is_refused(
    command: type[StartMicrovm | ResumeMicrovm], members: dict[str, object], reason: str
) -> None:
    spec = replace(SPEC, **members)  # type: ignore[arg-type]
    refused = POLICY.refusal(command(spec))
    assert refused is not None
    assert reason in refused
    assert POLICY.refusal(AdoptMicrovm(spec, Phase.RUNNING)) == refused


def test_within_what_the_operator_maps_all_is_open() -> None:
    for network in ("10.99.0.0/16", "10.99.7.1/32"):
        assert POLICY.refusal(StartMicrovm(replace(SPEC, egress=_reaching(network)))) is None
    assert POLICY.refusal(StartMicrovm(replace(SPEC, egress=INTERNET))) is None


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        ((), True),
        (("pypi.example",), False),
        (("a.cdn.example", "pypi.example"), False),
        (("*.cdn.example",), False),
        (("cdn.example",), True),
        (("*.example",), True),
        (("pypi.example", "other.example"), True),
    ],
)
def test_names_narrow_a_subnet(names: tuple[str, ...], refused: bool) -> None:
    subnet = MappedSubnet((OFFICE,), names=("pypi.example", "*.cdn.example"))
    policy = replace(POLICY, networks=EgressMap({"subnet-1": subnet}))
    reach = Reach(f"{CONNECTOR}:1", OFFICE, Protocol.TCP, ((443, 443),), names)
    spec = replace(SPEC, egress=Egress(reaches=(reach,)))
    assert (policy.refusal(StartMicrovm(spec)) is not None) is refused


def test_builds_are_held_to_the_sizes_on_offer() -> None:
    build = next(one for one in SAMPLES if isinstance(one, BuildVersion))
    config: VersionConfig = replace(build.config, memory_mib=64)
    refused = POLICY.refusal(replace(build, config=config))
    assert refused == "images of 64 MiB are not offered"
    foreign = replace(build, config=replace(build.config, build_role_arn=ROLE))
    assert POLICY.refusal(foreign) == "the role is of another account"


def test_a_connector_opens_its_own_networks() -> None:
    mine = ProvisionConnector(CONNECTOR, 1, _reaching("10.99.0.0/16"))
    assert POLICY.refusal(mine) is None
    assert POLICY.refusal(replace(mine, number=2)) == "the connector opens networks of another"
    assert POLICY.refusal(replace(mine, egress=_reaching("10.0.0.0/8"))) is not None


def test_a_change_opens_what_is_mapped_for_the_microvms_account() -> None:
    change = ChangeEgress(ID, 1, _reaching("10.98.1.0/24"))
    assert POLICY.refusal(change, OTHER) is None
    refused = POLICY.refusal(change, SPEC.version.account)
    assert refused == "no subnet of the settings holds the network 10.98.1.0/24"
    assert POLICY.refusal(replace(change, egress=_reaching("10.99.1.0/24")), OTHER) is None


def test_the_rest_names_nothing_but_itself() -> None:
    assert POLICY.refusal(SuspendMicrovm(ID, 1)) is None
    assert POLICY.refusal(DeleteVersion(VersionKey(OTHER, "app", "1.0"))) is None
