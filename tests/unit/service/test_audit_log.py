"""The record of calls on disk: what is kept, found, followed, and given up."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from microvmd.api.audit import SOURCE, Call
from microvmd.api.requests import RequestContext
from microvmd.model.caller import Caller, CallerKind
from microvmd.service import audit_log as audit_file
from microvmd.service.audit_log import (
    MIB,
    SEGMENTS,
    UNPROVEN_PER_S,
    AuditLimits,
    AuditLog,
    AuditQuery,
    Place,
    audit_log,
)

pytestmark = pytest.mark.anyio

MINE, OTHER = "123456789012", "210987654321"
LIMITS = AuditLimits(reads=True, days=90, size=16 * MIB)


def call(name: str = "RunMicrovm", account: str | None = MINE, **members: Any) -> Call:
    made = Call("r", "us-east-1", "127.0.0.1", "test", name=name, **members)
    if account is not None:
        arn = f"arn:aws:iam::{account}:user/ann"
        caller = Caller(arn, account, CallerKind.USER, "ann")
        now = datetime.now(UTC)
        made.context = RequestContext(account, "us-east-1", "AKIA", "r", now, caller)
    return made


@asynccontextmanager
async def opened(
    directory: Path, limits: AuditLimits = LIMITS, clock: Callable[[], float] | None = None
) -> AsyncIterator[AuditLog]:
    async with audit_log(directory / "audit", limits) as log:
        if clock is not None:
            log._clock = log._files._clock = clock
        yield log


async def written(log: AuditLog, count: int, query: AuditQuery | None = None) -> list[Any]:
    """The first ``count`` records; waits for the writer."""
    found = []
    async with asyncio.timeout(20):
        async for _, one in log.read(query or AuditQuery(), follow=True):
            found.append(one)
            if len(found) == count:
                return found
    raise AssertionError("following ended")


async def names(log: AuditLog, **query: Any) -> list[str]:
    return [one["eventName"] async for _, one in log.read(AuditQuery(**query))]


async def test_what_is_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log(call("RunMicrovm"))
        log(call("GetMicrovm", read_only=True))
        log(call("RunMicrovm", OTHER))
        log(call("SuspendMicrovm", error="ConflictException", message="no"))
        log(call("ListMicrovms", None, error="InvalidSignatureException"))
        await written(log, 5)
        assert len(await names(log)) == 5
        assert await names(log, account=MINE) == ["RunMicrovm", "GetMicrovm", "SuspendMicrovm"]
        assert await names(log, name="RunMicrovm", account=OTHER) == ["RunMicrovm"]
        assert await names(log, failed=True) == ["SuspendMicrovm", "ListMicrovms"]
        assert await names(log, error="ConflictException") == ["SuspendMicrovm"]
        assert "GetMicrovm" not in await names(log, writes=True)
        for user in ("ann", "AKIA", f"arn:aws:iam::{OTHER}:user/ann"):
            assert "RunMicrovm" in await names(log, user=user)
        assert await names(log, user="bob") == []
        assert await names(log, since=9e9) == []


async def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log(call())
        await written(log, 1)
    directory = tmp_path / "audit"
    (file,) = directory.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_all_is_written_at_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for _ in range(3000):
            log(call())
    async with opened(tmp_path) as log:
        assert len(await names(log)) == 3000


async def test_a_reader_goes_on_behind_a_place(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for name in ("A", "B", "C"):
            log(call(name))
        found = await written(log, 3)
        places = [place async for place, _ in log.read(AuditQuery())]
        again = Place.parse(str(places[0]))
        assert [one["eventName"] async for _, one in log.read(AuditQuery(), after=again)] == [
            "B",
            "C",
        ]
        assert await log.last(AuditQuery(), 1) == [(places[-1], found[-1])]
    assert Place.parse("../../etc/passwd:0") is None


async def test_reads_may_be_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path, AuditLimits(reads=False, days=1, size=16 * MIB)) as log:
        log(call("GetMicrovm", read_only=True))
        log(call("GetMicrovm", read_only=True, error="AccessDeniedException"))
        log(call("PutObject", source="s3.amazonaws.com", data=True))
        log(call("RunMicrovm", data=True))
        await written(log, 2)
        assert await names(log) == ["GetMicrovm", "RunMicrovm"]


async def test_traffic_of_objects_is_no_management(tmp_path: Path) -> None:
    """Data events about MicroVMs are told, AWS's and our own; those of other services are not."""
    async with opened(tmp_path) as log:
        log(call("PutObject", source="s3.amazonaws.com", data=True))
        log(call("GetMicrovm", read_only=True, data=True))
        log(call("GetMicrovmFacts", source=SOURCE, read_only=True, data=True))
        log(call("GetObject", source="s3.amazonaws.com", data=True, error="AccessDenied"))
        await written(log, 3)
        assert await names(log) == ["GetMicrovm", "GetMicrovmFacts", "GetObject"]


async def test_a_flood_of_nobody_displaces_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, clock=lambda: 1e9) as log:
        for _ in range(1000):
            log(call("ListMicrovms", None, error="MissingAuthenticationTokenException"))
        log(call("RunMicrovm"))
        found = await written(log, 1, AuditQuery(name="RunMicrovm"))
        assert len(await names(log)) == UNPROVEN_PER_S + 1
        lost = found[0]["additionalEventData"]["callsNotRecorded"]
        assert lost == 1000 - UNPROVEN_PER_S


async def test_the_oldest_go_first(tmp_path: Path) -> None:
    clock = [1_790_000_000.0]
    async with opened(tmp_path, clock=lambda: clock[0]) as log:
        log(call("Old"))
        await written(log, 1)
        clock[0] += 91 * 86_400
        log(call("New"))
        await written(log, 1, AuditQuery(name="New"))
        assert await names(log) == ["New"]


async def test_space_is_bounded(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    directory.mkdir()
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    for number in range(SEGMENTS * 2):
        (directory / f"{today}.{number:04}.jsonl").write_bytes(b"x" * (MIB - 1) + b"\n")
    async with opened(tmp_path) as log:
        log(call())
        await written(log, 1)
    assert sum(path.stat().st_size for path in directory.iterdir()) <= LIMITS.size
    newest = max(directory.iterdir())
    assert newest.name == f"{today}.{SEGMENTS * 2:04}.jsonl"


async def test_a_torn_line_harms_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log(call("A"))
        await written(log, 1)
    (file,) = (tmp_path / "audit").iterdir()
    os.truncate(file, file.stat().st_size - 20)
    async with opened(tmp_path) as log:
        log(call("B"))
        await written(log, 1)
        assert await names(log) == ["B"]
    assert json.loads(file.read_bytes().splitlines()[-1])["eventName"] == "B"


async def test_a_place_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(tmp_path) as log:
        (tmp_path / "audit").rmdir()
        log(call())
        said = ""
        while "audit.lost" not in said:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().out
        log(call())
    assert "audit.lost" not in capsys.readouterr().out, "not at once again: the disk is full"


async def test_a_clock_set_back_writes_behind_what_is_there(tmp_path: Path) -> None:
    clock = [1_790_000_000.0]
    async with opened(tmp_path, clock=lambda: clock[0]) as log:
        log(call("A"))
        await written(log, 1)
        clock[0] -= 3 * 86_400
        log(call("B"))
        await written(log, 2)
        assert await names(log) == ["A", "B"]


@pytest.mark.parametrize("block", [64, 700, 1 << 20])
async def test_the_newest_are_found_from_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(audit_file, "BLOCK", block)
    async with opened(tmp_path) as log:
        for number in range(30):
            log(call(f"Call{number}", MINE if number % 2 else OTHER))
        await written(log, 30)
        every = [behind async for behind, _ in log.read(AuditQuery())]
        found = await log.last(AuditQuery(), 30)
        assert [place for place, _ in found] == every
        assert [one["eventName"] for _, one in found] == [f"Call{n}" for n in range(30)]
        mine = await log.last(AuditQuery(account=MINE), 3)
        assert [one["eventName"] for _, one in mine] == ["Call25", "Call27", "Call29"]
        monkeypatch.setattr(audit_file, "LAST_BYTES", 2000)
        assert 0 < len(await log.last(AuditQuery(), 30)) < 5
