"""Decisions about MicroVMs, played against an in-memory node and edge."""

import asyncio
from pathlib import Path

import pytest

from microvmd.messages.node import (
    Died,
    ResumeFailed,
    ResumeMicrovm,
    Started,
    StartMicrovm,
    Suspended,
    Terminated,
)
from microvmd.model.connector import Ingress, managed_arn
from microvmd.model.errors import Conflict, NotFound, ValidationError
from microvmd.model.microvm import Phase, State
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION, Plane, plane

pytestmark = pytest.mark.anyio

RUN = {"imageIdentifier": IMAGE_ARN}
POLICY = {
    "maxIdleDurationSeconds": 60,
    "suspendedDurationSeconds": 300,
    "autoResumeEnabled": True,
}


async def running(p: Plane, **request: object) -> str:
    microvm = await p.microvms.run(ACCOUNT, {**RUN, **request})
    await p.microvms.report(Started(microvm.microvm_id, 1, "10.200.0.2"))
    p.node.commands.clear()
    return microvm.microvm_id


async def state(p: Plane, microvm_id: str) -> State:
    return (await p.microvms.get(ACCOUNT, microvm_id)).state


async def test_run_suspend_resume_terminate(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm = await p.microvms.run(ACCOUNT, {**RUN, "runHookPayload": None})
        assert vm.state is State.PENDING
        assert vm.endpoint_id not in vm.microvm_id
        assert p.node.taken() == ["StartMicrovm"]

        await p.microvms.report(Started(vm.microvm_id, 1, "10.200.0.2"))
        assert await state(p, vm.microvm_id) is State.RUNNING
        assert p.routes.addresses == {vm.endpoint_id: "10.200.0.2"}

        await p.microvms.suspend(ACCOUNT, vm.microvm_id)
        assert p.routes.addresses == {}, "no request may reach a VM that is being suspended"
        assert p.node.taken() == ["SuspendMicrovm"]
        await p.microvms.report(Suspended(vm.microvm_id, 1))
        assert await state(p, vm.microvm_id) is State.SUSPENDED

        await p.microvms.resume(ACCOUNT, vm.microvm_id)
        command = p.node.commands.pop()
        assert isinstance(command, ResumeMicrovm)
        assert command.spec.generation == 2
        assert await state(p, vm.microvm_id) is State.SUSPENDED
        await p.microvms.report(Started(vm.microvm_id, 2, "10.200.0.6"))
        assert p.routes.addresses == {vm.endpoint_id: "10.200.0.6"}

        await p.microvms.terminate(ACCOUNT, vm.microvm_id)
        assert p.node.taken() == ["TerminateMicrovm"]
        await p.microvms.report(Terminated(vm.microvm_id, 2))
        ended = await p.microvms.get(ACCOUNT, vm.microvm_id)
        assert (ended.state, ended.state_reason) == (State.TERMINATED, "Success.")
        with pytest.raises(ValidationError, match="has been terminated"):
            await p.microvms.suspend(ACCOUNT, vm.microvm_id)
        await p.microvms.terminate(ACCOUNT, vm.microvm_id)


async def test_late_reports_of_an_older_generation_are_dropped(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm_id = await running(p)
        await p.microvms.suspend(ACCOUNT, vm_id)
        await p.microvms.report(Suspended(vm_id, 1))
        await p.microvms.resume(ACCOUNT, vm_id)
        await p.microvms.report(Died(vm_id, 1, "late news of the first VMM"))
        await p.microvms.report(Started(vm_id, 2, "10.200.0.6"))
        assert await state(p, vm_id) is State.RUNNING


async def test_client_token_replays_and_conflicts(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        first = await p.microvms.run(ACCOUNT, {**RUN, "clientToken": "t"})
        again = await p.microvms.run(ACCOUNT, {**RUN, "clientToken": "t"})
        assert again.microvm_id == first.microvm_id
        assert p.node.taken() == ["StartMicrovm"]
        with pytest.raises(Conflict):
            await p.microvms.run(ACCOUNT, {**RUN, "clientToken": "t", "imageVersion": "1.0"})


async def test_replay_of_a_suspended_microvm_resumes_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm_id = await running(p, clientToken="t")
        await p.microvms.suspend(ACCOUNT, vm_id)
        await p.microvms.report(Suspended(vm_id, 1))
        p.node.commands.clear()
        await p.microvms.run(ACCOUNT, {**RUN, "clientToken": "t"})
        assert p.node.taken() == ["ResumeMicrovm"]


async def test_held_request_gets_the_address_when_the_microvm_starts(tmp_path: Path) -> None:
    async with plane(tmp_path) as p, asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await p.built()
        vm = await p.microvms.run(ACCOUNT, RUN)
        held = [tasks.create_task(p.microvms.route_to(vm.endpoint_id)) for _ in range(3)]
        await asyncio.sleep(0)
        await p.microvms.report(Started(vm.microvm_id, 1, "10.200.0.2"))
        assert [(await task).address for task in held] == ["10.200.0.2"] * 3


async def test_request_to_a_suspended_microvm_resumes_it_once(tmp_path: Path) -> None:
    async with plane(tmp_path) as p, asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await p.built()
        vm_id = await running(p, idlePolicy=POLICY)
        endpoint_id = (await p.microvms.get(ACCOUNT, vm_id)).endpoint_id
        await p.microvms.suspend(ACCOUNT, vm_id)
        await p.microvms.report(Suspended(vm_id, 1))
        p.node.commands.clear()
        held = [tasks.create_task(p.microvms.route_to(endpoint_id)) for _ in range(3)]
        while not p.node.commands:
            p.microvms.any_change.clear()
            await p.microvms.any_change.wait()
            await asyncio.sleep(0)
        assert p.node.taken() == ["ResumeMicrovm"]
        await p.microvms.report(Started(vm_id, 2, "10.200.0.6"))
        assert {(await task).address for task in held} == {"10.200.0.6"}
        assert p.node.taken() == []


async def test_failed_resume_refuses_the_held_request(tmp_path: Path) -> None:
    async with plane(tmp_path) as p, asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await p.built()
        vm_id = await running(p, idlePolicy=POLICY)
        endpoint_id = (await p.microvms.get(ACCOUNT, vm_id)).endpoint_id
        await p.microvms.suspend(ACCOUNT, vm_id)
        await p.microvms.report(Suspended(vm_id, 1))
        p.microvms.any_change.clear()
        held = tasks.create_task(p.microvms.route_to(endpoint_id))
        await p.microvms.any_change.wait()
        await p.microvms.report(ResumeFailed(vm_id, 2, "Resume hook said 500"))
        assert (await held).address is None
        assert await state(p, vm_id) is State.SUSPENDED


async def test_endpoints_that_lead_nowhere(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        assert not (await p.microvms.route_to("unknown")).known
        closed = await p.microvms.run(
            ACCOUNT, {**RUN, "ingressNetworkConnectors": [managed_arn(Ingress.NONE, REGION)]}
        )
        assert not (await p.microvms.route_to(closed.endpoint_id)).allowed
        await p.microvms.report(Started(closed.microvm_id, 1, "10.200.0.2"))
        assert p.routes.addresses == {}
        await p.microvms.suspend(ACCOUNT, closed.microvm_id)


async def test_idle_and_expired_microvms_are_acted_on(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm_id = await running(p, idlePolicy=POLICY, maximumDurationInSeconds=1000)
        endpoint_id = (await p.microvms.get(ACCOUNT, vm_id)).endpoint_id
        p.microvms.saw_activity({endpoint_id}, 1050.0)
        await p.microvms.apply_due(1100.0)
        assert p.node.taken() == []
        await p.microvms.resume(ACCOUNT, vm_id)  # changes nothing, forgets nothing
        await p.microvms.apply_due(1109.0)
        assert p.node.taken() == []
        await p.microvms.apply_due(1110.0)
        assert p.node.taken() == ["SuspendMicrovm"]
        p.clock.now = 1110.0
        await p.microvms.report(Suspended(vm_id, 1))
        await p.microvms.apply_due(1410.0)
        assert p.node.taken() == ["TerminateMicrovm"]
        await p.microvms.report(Terminated(vm_id, 1))
        ended = await p.microvms.get(ACCOUNT, vm_id)
        assert ended.state_reason == "Suspended duration exceeded."


async def test_run_refusals(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        with pytest.raises(NotFound, match=f"^No active version found .* {IMAGE_ARN}$"):
            await p.microvms.run(ACCOUNT, RUN)
        await p.built()
        with pytest.raises(NotFound, match=f"No active version found .* {IMAGE_ARN} and version 2"):
            await p.microvms.run(ACCOUNT, {**RUN, "imageVersion": "2.0"})
        with pytest.raises(ValidationError, match="run hook must be enabled"):
            await p.microvms.run(ACCOUNT, {**RUN, "runHookPayload": "x"})
        with pytest.raises(NotFound):
            await p.microvms.run("111111111111", RUN)
        with pytest.raises(NotFound, match="MicroVM not found: microvm-none"):
            await p.microvms.get(ACCOUNT, "microvm-none")


async def test_other_accounts_see_nothing(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm_id = await running(p)
        for call in (p.microvms.get, p.microvms.suspend, p.microvms.terminate):
            with pytest.raises(NotFound):
                await call("111111111111", vm_id)
        assert not (await p.microvms.list_microvms("111111111111")).items


async def test_pages_are_newest_first_and_cursors_are_sealed(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        made = [(await p.microvms.run(ACCOUNT, RUN)).microvm_id for _ in range(5)]
        seen: list[str] = []
        token = None
        while True:
            page = await p.microvms.list_microvms(ACCOUNT, max_results=2, next_token=token)
            seen += [vm.microvm_id for vm in page.items]
            token = page.next_token
            if token is None:
                break
        assert seen == made[::-1]
        with pytest.raises(ValidationError, match="Invalid nextToken"):
            await p.microvms.list_microvms(ACCOUNT, next_token="AAAA")


async def test_restart_loads_what_lives(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        kept = await running(p)
        gone = await running(p)
        await p.microvms.terminate(ACCOUNT, gone)
        await p.microvms.report(Terminated(gone, 1))
    async with plane(tmp_path) as p:
        found = await p.microvms.load_after_restart()
        assert [(vm.microvm_id, vm.phase) for vm, _ in found] == [(kept, Phase.RUNNING)]
        assert found[0][1].version.image_name == "app"


async def test_start_command_carries_what_the_node_needs(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        hooks = {
            "port": 9000,
            "microvmImageHooks": {"ready": "ENABLED"},
            "microvmHooks": {"run": "ENABLED"},
        }
        await p.built(hooks=hooks, resources=[{"minimumMemoryInMiB": 512}])
        vm = await p.microvms.run(ACCOUNT, {**RUN, "runHookPayload": "p"})
        command = p.node.commands.pop()
        assert isinstance(command, StartMicrovm)
        assert command.spec.run_hook_payload == "p"
        assert command.spec.size.peak_mib == 2048
        assert command.spec.log.group == f"{ACCOUNT}:/aws/lambda-microvms/app"
        assert command.spec.log.stream == f"1970/01/01[1.0]{vm.microvm_id}"


async def test_a_caller_that_hangs_up_loses_no_effect(tmp_path: Path) -> None:
    async with plane(tmp_path) as p, asyncio.timeout(5):
        await p.built()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(p.microvms.run(ACCOUNT, RUN))
            await asyncio.sleep(0)
            asking.cancel()
        (microvm,) = (await p.microvms.list_microvms(ACCOUNT)).items
        while not p.microvms.live():
            await p.microvms.any_change.wait()
        assert microvm.phase is Phase.PENDING
        assert p.node.taken() == ["StartMicrovm"]


async def test_timings_are_of_the_generation_that_lives(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm_id = await running(p)
        await p.microvms.report(Started(vm_id, 7, "10.200.0.2", {"total": 7.0}))
        await p.microvms.suspend(ACCOUNT, vm_id)
        await p.microvms.report(Suspended(vm_id, 1, {"total": 5.0}))
        assert p.microvms.timings(vm_id) == {"started": {}, "suspended": {"total": 5.0}}
        await p.microvms.terminate(ACCOUNT, vm_id)
        await p.microvms.report(Terminated(vm_id, 1))
        await p.microvms.report(Suspended(vm_id, 1, {"total": 5.0}))
        assert p.microvms.timings(vm_id) == {}


async def test_one_decision_that_fails_ends_no_other(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        await p.built()
        vm_id = await running(p)
        p.node.lost = True
        with pytest.raises(ConnectionError, match="no node"):
            await p.microvms.suspend(ACCOUNT, vm_id)
        assert await state(p, vm_id) is State.SUSPENDING
        await p.microvms.report(Suspended(vm_id, 1))
        assert await state(p, vm_id) is State.SUSPENDED
