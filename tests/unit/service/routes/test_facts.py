"""Answers about a real control plane and a real log store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from microvmd.edge.stats import CommandFailed
from microvmd.messages.node import Started
from microvmd.messages.node_requests import Vmm
from microvmd.model.errors import NotFound
from microvmd.node.log_reading import LogReader
from microvmd.node.logs import LogStore
from microvmd.service.routes.extensions import VmmFacts
from microvmd.service.routes.facts import ServiceFacts
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, Plane, plane

pytestmark = pytest.mark.anyio

GROUP = "/aws/lambda-microvms/app"
OWN_GROUP = f"{ACCOUNT}:{GROUP}"


@dataclass
class Service:
    """A service without a node and an edge: the test says what they answer."""

    plane: Plane
    logs: LogStore
    vmms: dict[str, Vmm] = field(default_factory=dict)
    edge_fails: str | None = None
    node_state: str = "ok"

    @property
    def facts(self) -> ServiceFacts:
        return ServiceFacts(
            account=ACCOUNT,
            store=self.plane.store,
            microvms=self.plane.microvms,
            log_lines=LogReader(self.logs).lines,
            vmm_of=self.vmm_of,
            ask_edge=self.ask_edge,
            node_state=lambda: self.node_state,
        )

    async def vmm_of(self, microvm_id: str) -> Vmm | None:
        return self.vmms.get(microvm_id)

    async def ask_edge(self) -> None:
        if self.edge_fails is not None:
            raise CommandFailed(self.edge_fails)

    async def lines(
        self, stream: str | None, *, since: float = 0, follow: bool = False, count: int = 1000
    ) -> list[tuple[str, str]]:
        """Stream and text of up to `count` lines of GROUP."""
        found = []
        async with (
            asyncio.timeout(10),
            aclosing(self.facts.logs(ACCOUNT, GROUP, stream, since=since, follow=follow)) as lines,
        ):
            async for line in lines:
                found.append((line.stream, line.message))
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[Service]:
    async with plane(directory) as p, LogStore(directory / "logs") as logs:
        yield Service(p, logs)


async def test_health_names_the_part_that_is_broken(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        assert (await s.facts.health()).status == "ok"
        s.edge_fails = "stats.sock: no such file"
        health = await s.facts.health()
        assert health.status == "degraded"
        assert health.checks == {
            "api": "ok",
            "edge": "stats.sock: no such file",
            "node": "ok",
            "store": "ok",
        }
        s.edge_fails, s.node_state = None, "the node is being started again"
        assert (await s.facts.health()).status == "degraded"


async def test_facts_of_a_microvm(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        await s.plane.built()
        microvm = await s.plane.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        before = await s.facts.microvm(ACCOUNT, microvm.microvm_id)
        assert (before.state, before.vmm, before.address) == ("PENDING", None, None)

        timings = {"vmm": 20.0, "total": 41.5}
        await s.plane.microvms.report(Started(microvm.microvm_id, 1, "10.200.0.2", timings))
        s.vmms[microvm.microvm_id] = Vmm(4711, 99, 2 << 20)
        facts = await s.facts.microvm(ACCOUNT, microvm.microvm_id)
        assert (facts.state, facts.generation, facts.address) == ("RUNNING", 1, "10.200.0.2")
        assert facts.log_group == GROUP
        assert facts.log_stream == f"1970/01/01[1.0]{microvm.microvm_id}"
        assert facts.timings == {"started": timings}
        assert facts.vmm == VmmFacts(4711, 99, 2 << 20)


async def test_another_account_sees_neither_facts_nor_logs(tmp_path: Path) -> None:
    other = "111122223333"
    async with service(tmp_path) as s:
        await s.plane.built()
        microvm = await s.plane.microvms.run(ACCOUNT, {"imageIdentifier": IMAGE_ARN})
        with pytest.raises(NotFound):
            await s.facts.microvm(other, microvm.microvm_id)
        await s.logs.append(OWN_GROUP, "run", ["secret"])
        lines = s.facts.logs(other, GROUP, None, since=0, follow=False)
        assert [line async for line in lines] == []


async def test_an_unknown_microvm(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        with pytest.raises(NotFound):
            await s.facts.microvm(ACCOUNT, "microvm-none")


async def test_logs_of_a_stream_and_of_a_group(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        await s.logs.append(OWN_GROUP, "run", ["one"], at=10.0)
        await s.logs.append(OWN_GROUP, "build/1.0/b", ["STEP 1/1: FROM scratch"], at=5.0)
        await s.logs.append(OWN_GROUP, "run", ["two"], at=20.0)
        assert await s.lines("run") == [("run", "one"), ("run", "two")]
        assert await s.lines("run", since=15) == [("run", "two")]
        build = ("build/1.0/b", "STEP 1/1: FROM scratch")
        assert await s.lines(None) == [build, ("run", "one"), ("run", "two")]
        assert await s.lines(None, since=8) == [("run", "one"), ("run", "two")]
        assert await s.lines("unknown") == []


async def test_more_lines_than_a_page(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        texts = [str(number) for number in range(2500)]
        await s.logs.append(OWN_GROUP, "run", texts)
        assert await s.lines("run", count=5000) == [("run", text) for text in texts]


@pytest.mark.parametrize("stream", ["run", None])
async def test_followers_get_what_comes_later(stream: str | None, tmp_path: Path) -> None:
    async with service(tmp_path) as s, asyncio.TaskGroup() as tasks:
        await s.logs.append(OWN_GROUP, "run", ["old"])
        followed = tasks.create_task(s.lines(stream, follow=True, count=2))
        await s.logs.flush()
        await s.logs.append(OWN_GROUP, "run", ["new"])
        assert await followed == [("run", "old"), ("run", "new")]
