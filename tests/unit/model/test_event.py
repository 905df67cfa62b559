"""The envelope is EventBridge's, and says who and why."""

from microvmd.model.event import SERVICE, Actor, ActorKind, Event, microvm_change
from microvmd.model.microvm import Phase
from tests.unit.control.test_store import microvm

CALLER = Actor(ActorKind.CALLER, "arn:aws:iam::000000000000:user/ann", "r-1", "192.0.2.1")


def test_the_envelope() -> None:
    change = microvm_change(Phase.PENDING.value, microvm(1))
    found = Event(7, "e-7", 1_700_000_000.5, change, CALLER).envelope()
    detail = found.pop("detail")
    image = microvm(1).image_arn
    assert found == {
        "version": "0",
        "id": "e-7",
        "detail-type": "MicroVM State Change",
        "source": "microvmd",
        "account": "000000000000",
        "time": "2023-11-14T22:13:20.500Z",
        "region": "us-east-1",
        "resources": ["arn:aws:lambda:us-east-1:000000000000:microvm:microvm-1", image],
    }
    assert detail["previousState"] == "PENDING"
    assert detail["state"] == microvm(1).phase.value
    assert detail["actor"] == {
        "type": "caller",
        "principal": CALLER.principal,
        "requestId": "r-1",
        "sourceIPAddress": "192.0.2.1",
    }
    assert detail["sequence"] == 7


def test_what_is_not_known_is_left_out() -> None:
    detail = Event(1, "e", 0.0, microvm_change(None, microvm(1)), SERVICE).envelope()["detail"]
    assert "previousState" not in detail
    assert "reason" not in detail
    assert detail["actor"] == {"type": "service"}
