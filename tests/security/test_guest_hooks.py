"""Hooks whose answers never end: the guest's agent reads a bounded part and judges by that."""

import asyncio

import pytest

from microvmd.messages.node import Died, Suspended, SuspendMicrovm
from microvmd.model.hooks import HookName
from tests.attacklab import Attacker, attacker, hooked, unharmed
from tests.nodelab import LIMIT, NodeLab, RunningNode

pytestmark = [pytest.mark.vm, pytest.mark.security, pytest.mark.anyio]

UNBOUND = 4 << 20
"""What the test reads of such an answer where nothing bounds it; it would go on."""
SLOW = 30
"""Bytes of a slow answer, ten a second: more than the two seconds of a limit."""
ENDLESS_PORT = 8090


async def suspended(node: RunningNode, one: Attacker) -> Suspended | Died:
    await node.agent.send(SuspendMicrovm(one.spec.microvm_id, one.spec.generation))
    async with asyncio.timeout(LIMIT):
        report = await node.reports.queue.get()
    assert isinstance(report, Suspended | Died)
    return report


async def goes_on(address: str, size: int = UNBOUND) -> bool:
    reader, writer = await asyncio.open_connection(address, ENDLESS_PORT)
    try:
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(LIMIT):
            return len(await reader.readexactly(size)) == size
    finally:
        writer.close()


@pytest.mark.parametrize("how", ["headers", "continue"])
async def test_an_answer_without_an_end_of_its_head_is_none(how: str, attack_lab: NodeLab) -> None:
    async with (
        attack_lab.node() as node,
        attacker(node) as other,
        attacker(node, hooks=hooked(HookName.SUSPEND)) as one,
    ):
        assert await one.does("endless", how, ENDLESS_PORT) == "begun"
        assert await goes_on(one.address)
        assert await one.does("hooks", how) == how
        async with unharmed(other):
            report = await suspended(node, one)
        assert isinstance(report, Died)
        assert report.reason.startswith("Suspend lifecycle hook ")


async def test_an_answer_whose_body_does_not_end_counts(attack_lab: NodeLab) -> None:
    async with (
        attack_lab.node() as node,
        attacker(node) as other,
        attacker(node, hooks=hooked(HookName.SUSPEND)) as one,
    ):
        assert await one.does("endless", "body", ENDLESS_PORT) == "begun"
        assert await goes_on(one.address)
        assert await one.does("hooks", "body") == "body"
        async with unharmed(other):
            assert isinstance(await suspended(node, one), Suspended)


async def test_a_slow_answer_has_its_time_and_no_more(attack_lab: NodeLab) -> None:
    async with (
        attack_lab.node() as node,
        attacker(node) as other,
        attacker(node, hooks=hooked(HookName.SUSPEND, limit=2)) as one,
    ):
        assert await one.does("endless", "slow", ENDLESS_PORT) == "begun"
        assert await goes_on(one.address, SLOW), "after its limit too"
        assert await one.does("hooks", "slow") == "slow"
        async with unharmed(other):
            report = await suspended(node, one)
        assert isinstance(report, Died)
        assert report.reason.startswith("Suspend lifecycle hook timed out.")
