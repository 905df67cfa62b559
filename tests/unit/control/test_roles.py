"""Roles that cannot be assumed are refused before anything begins, and asked about seldom."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from microvmd.control.roles import CANNOT, REMEMBERED_S, AssumableRoles
from microvmd.model.errors import NotFound, ValidationError
from tests.unit.control.plane import ACCOUNT, CREATE, IMAGE_ARN, plane

pytestmark = pytest.mark.anyio

ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"
FOREIGN = "arn:aws:iam::999999999999:role/app"


@dataclass
class Asked:
    """An STS that can assume some roles; `gate` holds its answers."""

    can: set[str] = field(default_factory=lambda: {ROLE})
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    now: float = 0.0

    async def __call__(self, role_arn: str) -> bool:
        self.asked.append(role_arn)
        await self.gate.wait()
        return role_arn in self.can

    @property
    def roles(self) -> AssumableRoles:
        self.gate.set()
        return AssumableRoles(self, lambda: self.now)


async def test_a_role_is_asked_about_once_in_a_while() -> None:
    sts = Asked()
    roles = sts.roles
    for _ in range(3):
        await roles.check_execution(ACCOUNT, ROLE)
    await roles.check_build(ACCOUNT, ROLE)
    assert sts.asked == [ROLE]
    sts.now = REMEMBERED_S
    await roles.check_execution(ACCOUNT, ROLE)
    assert sts.asked == [ROLE, ROLE]


async def test_many_at_once_ask_once() -> None:
    sts = Asked()
    roles = sts.roles
    sts.gate.clear()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(roles.check_execution(ACCOUNT, ROLE))
        await asyncio.sleep(0)
        sts.gate.set()
    assert sts.asked == [ROLE]


async def test_a_refusal_is_not_remembered() -> None:
    sts = Asked(can=set())
    roles = sts.roles
    with pytest.raises(ValidationError, match=CANNOT):
        await roles.check_build(ACCOUNT, ROLE)
    with pytest.raises(NotFound, match=CANNOT):
        await roles.check_execution(ACCOUNT, ROLE)
    sts.can.add(ROLE)
    await roles.check_build(ACCOUNT, ROLE)


@pytest.mark.parametrize("role", [FOREIGN, "arn:aws:iam::role", "x", ""])
async def test_only_roles_of_the_callers_account(role: str) -> None:
    sts = Asked(can={role})
    for roles in (sts.roles, AssumableRoles()):
        with pytest.raises(ValidationError, match=CANNOT):
            await roles.check_build(ACCOUNT, role)
    assert sts.asked == []


async def test_no_role_is_no_refusal() -> None:
    await Asked(can=set()).roles.check_execution(ACCOUNT, None)


async def test_nothing_begins_with_a_role_that_is_refused(tmp_path: Path) -> None:
    async with plane(tmp_path) as p:
        with pytest.raises(ValidationError, match=CANNOT):
            await p.images.create(ACCOUNT, {**CREATE, "buildRoleArn": FOREIGN})
        await p.built()
        update = {**CREATE, "imageIdentifier": IMAGE_ARN, "buildRoleArn": FOREIGN}
        with pytest.raises(ValidationError, match=CANNOT):
            await p.images.update(ACCOUNT, update)
        p.node.commands.clear()
        request = {"imageIdentifier": IMAGE_ARN, "executionRoleArn": FOREIGN}
        with pytest.raises(NotFound, match=CANNOT):
            await p.microvms.run(ACCOUNT, request)
        assert p.node.commands == []
        assert p.microvms.live() == []
