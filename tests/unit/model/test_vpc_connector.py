"""States of connectors and versions, what a request must hold, and how connectors are named."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.errors import Conflict, InvalidParameter, NotFound
from microvmd.model.vpc_connector import (
    TRANSITIONS,
    Connector,
    ConnectorEvent,
    ConnectorRef,
    ConnectorState,
    ConnectorVersion,
    Failure,
    FailureCode,
    UpdateStatus,
    VpcEgress,
    apply_connector,
    apply_version,
    check_name,
    update_begun,
    update_settled,
    update_without_change,
)

ACCOUNT, REGION = "123456789012", "us-east-1"
ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector"
CONFIG = VpcEgress(("subnet-1",), "IPv4", ("MicroVm",))
FAILURE = Failure(FailureCode.INVALID_SUBNET, "no such subnet")
REQUESTS = (ConnectorEvent.UPDATE_REQUESTED, ConnectorEvent.DELETE_REQUESTED)
GIVEN: dict[str, Any] = {
    "SubnetIds": ["subnet-1"],
    "SecurityGroupIds": ["sg-1"],
    "NetworkProtocol": "IPv4",
    "AssociatedComputeResourceTypes": ["MicroVm"],
}


def connector(state: ConnectorState = ConnectorState.ACTIVE, **changes: Any) -> Connector:
    made = Connector(ACCOUNT, REGION, "nc-1", "net", 1.0, 1.0, state)
    return replace(made, **changes)


def version(state: ConnectorState) -> ConnectorVersion:
    return ConnectorVersion(ACCOUNT, "nc-1", 1, CONFIG, "role", 1.0, state)


@pytest.mark.parametrize(("state", "event"), list(product(ConnectorState, ConnectorEvent)))
def test_every_state_answers_every_event(state: ConnectorState, event: ConnectorEvent) -> None:
    target = TRANSITIONS.get((state, event))
    if target is None and event in REQUESTS:
        with pytest.raises(Conflict):
            apply_connector(connector(state), event, 2.0)
        with pytest.raises(Conflict):
            apply_version(version(state), event, 2.0)
        return
    changed = apply_connector(connector(state), event, 2.0)
    assert changed.state is (state if target is None else target)
    assert changed.modified_at == (1.0 if target in (None, state) else 2.0)
    assert apply_version(version(state), event, 2.0).state is changed.state


def test_nothing_leads_to_inactive_or_back_from_deleted() -> None:
    assert ConnectorState.INACTIVE not in TRANSITIONS.values()
    ends = {target for (state, _), target in TRANSITIONS.items() if state is ConnectorState.DELETED}
    assert ends == {ConnectorState.DELETED}


@given(st.lists(st.sampled_from(ConnectorEvent), max_size=12))
def test_deleted_is_final_and_a_refused_call_changes_nothing(events: list[ConnectorEvent]) -> None:
    found = connector(ConnectorState.PENDING)
    for number, event in enumerate(events, 2):
        before = found
        try:
            found = apply_connector(found, event, float(number), FAILURE)
        except Conflict:
            assert event in REQUESTS
        if not before.live:
            assert found is before
        if found.state is before.state:
            assert found is before


def test_reasons() -> None:
    assert connector(ConnectorState.PENDING).state_reason == "Initial creation"
    assert connector(ConnectorState.ACTIVE).state_reason == "Initial creation"
    pending = connector(ConnectorState.PENDING)
    failed = apply_connector(pending, ConnectorEvent.PROVISION_FAILED, 2.0, FAILURE)
    assert (failed.state_reason, failed.failure) == ("no such subnet", FAILURE)
    deleting = apply_connector(failed, ConnectorEvent.DELETE_REQUESTED, 3.0)
    assert deleting.state_reason is None


def test_an_update_has_one_outcome() -> None:
    begun = update_begun(connector(), 2.0)
    assert (begun.newest, begun.current) == (2, 1)
    assert begun.update_status is UpdateStatus.IN_PROGRESS
    with pytest.raises(Conflict, match="in progress"):
        apply_connector(begun, ConnectorEvent.UPDATE_REQUESTED, 3.0)
    assert update_settled(begun, 1, None, 3.0) is begun
    done = update_settled(begun, 2, None, 3.0)
    assert (done.current, done.update_status) == (2, UpdateStatus.SUCCESSFUL)
    assert update_settled(done, 2, FAILURE, 4.0) is done
    failed = update_settled(begun, 2, FAILURE, 3.0)
    assert (failed.current, failed.update_status) == (1, UpdateStatus.FAILED)
    assert (failed.update_code, failed.update_reason) == (FAILURE.code, FAILURE.reason)
    assert failed.state is ConnectorState.ACTIVE
    again = update_begun(failed, 4.0)
    assert (again.newest, again.update_reason, again.update_code) == (3, None, None)


def test_an_update_without_change() -> None:
    same = update_without_change(connector())
    assert same.update_status is UpdateStatus.SUCCESSFUL
    assert same.update_reason == "No configuration changes detected"
    assert (same.newest, same.modified_at) == (1, 1.0)


def test_a_configuration_is_read() -> None:
    config = VpcEgress.from_request({"VpcEgressConfiguration": GIVEN})
    assert config == VpcEgress(("subnet-1",), "IPv4", ("MicroVm",), ("sg-1",))
    elastic = {**GIVEN, "ElasticIpConfiguration": {"Type": "ServiceManaged"}}
    found = VpcEgress.from_request({"VpcEgressConfiguration": elastic})
    assert found.elastic_ip == "ServiceManaged"


@pytest.mark.parametrize("name", ["SubnetIds", "NetworkProtocol", "AssociatedComputeResourceTypes"])
def test_members_that_the_service_wants(name: str) -> None:
    left = {key: value for key, value in GIVEN.items() if key != name}
    with pytest.raises(InvalidParameter, match=f"^{name} cannot be null or empty$"):
        VpcEgress.from_request({"VpcEgressConfiguration": left})
    with pytest.raises(InvalidParameter, match="must specify VpcEgressConfiguration"):
        VpcEgress.from_request({})


def test_order_and_the_default_make_no_difference() -> None:
    one = VpcEgress(("subnet-1", "subnet-2"), "IPv4", ("MicroVm",), ("sg-1", "sg-2"))
    other = VpcEgress(("subnet-2", "subnet-1"), "IPv4", ("MicroVm",), ("sg-2", "sg-1"), "None")
    assert one.same_as(other)
    assert not one.same_as(replace(one, elastic_ip="ServiceManaged"))
    assert not one.same_as(replace(one, security_groups=None))
    assert not one.same_as(replace(one, protocol="DualStack"))
    assert CONFIG.same_as(replace(CONFIG, security_groups=()))


@pytest.mark.parametrize(
    ("text", "key", "number"),
    [
        ("net", "net", None),
        ("nc-1", "nc-1", None),
        (f"{ARN}:nc-1", "nc-1", None),
        (f"{ARN}:net", "net", None),
        (f"{ARN}:nc-1:12", "nc-1", 12),
    ],
)
def test_identifiers(text: str, key: str, number: int | None) -> None:
    found = ConnectorRef.parse(text, ACCOUNT, REGION)
    assert found == ConnectorRef(ACCOUNT, REGION, key, number)


@pytest.mark.parametrize(
    ("text", "arn"),
    [
        ("a b", f"{ARN}:a b"),
        ("nc-1:2", f"{ARN}:nc-1:2"),
        (f"{ARN}:nc-1:0", f"{ARN}:nc-1:0"),
        (f"{ARN}:nc-1:99999999999999999999", f"{ARN}:nc-1:99999999999999999999"),
        (f"{ARN.replace(ACCOUNT, '111122223333')}:nc-1",) * 2,
        (f"{ARN.replace(REGION, 'eu-west-1')}:nc-1",) * 2,
        (f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:HTTP_INGRESS",) * 2,
    ],
)
def test_identifiers_that_name_nothing_here(text: str, arn: str) -> None:
    with pytest.raises(NotFound) as caught:
        ConnectorRef.parse(text, ACCOUNT, REGION)
    assert caught.value.message == f"Network connector not found for: {arn}"


@given(st.text(max_size=140))
def test_any_identifier_is_one_or_is_not_found(text: str) -> None:
    try:
        found = ConnectorRef.parse(text, ACCOUNT, REGION)
    except NotFound:
        return
    assert (found.account, found.region) == (ACCOUNT, REGION)


def test_a_connector_is_not_called_like_an_arn() -> None:
    check_name("my_net-1")
    with pytest.raises(InvalidParameter):
        check_name(f"{ARN}:net")
