"""A code artifact in S3 becomes an image version that runs; and what a failed build leaves."""

import asyncio
import io
import subprocess
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from microvmd.build.builder import BuildOptions
from microvmd.build.in_namespace import NamespaceWorkshop
from microvmd.build.service import ImageBuilder
from microvmd.build.source import SourceSettings
from microvmd.messages.node import (
    BuildFailed,
    BuildStarted,
    BuildSucceeded,
    BuildVersion,
    LogTarget,
    Started,
    StartMicrovm,
    Terminated,
    TerminateMicrovm,
    VersionKey,
)
from microvmd.model.egress import INTERNET
from microvmd.model.image import VersionConfig
from microvmd.node.agent import NodeAgent
from microvmd.node.bring_up import Equipment
from tests import buildlab, lanes
from tests.nodelab import ACCOUNT, IMAGE_ARN, PROGRAM, READY_ONLY, NodeLab, Reports, ask, spec_of

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.anyio]

ROLE = "arn:aws:iam::123456789012:role/build"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """S3 and STS, with artifacts by name."""
    program = tmp_path_factory.mktemp("program") / "app"
    subprocess.run(["gcc", "-O1", "-static", "-o", program, PROGRAM], check=True, timeout=60)
    dockerfile = 'FROM scratch\nCOPY app /app\nENTRYPOINT ["/app"]\n'
    artifacts: dict[str, dict[str, str | bytes]] = {
        "good.zip": {"Dockerfile": dockerfile, "app": program.read_bytes()},
        "none.zip": {"README": "no Dockerfile"},
        "ends.zip": {
            "Dockerfile": dockerfile + 'CMD ["no such module"]\n',
            "app": program.read_bytes(),
        },
    }
    with buildlab.aws() as (url, client):
        for name, files in artifacts.items():
            client.put_object(Bucket="code", Key=name, Body=_zip(files))
        yield url


def _zip(files: dict[str, str | bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, data)
    return packed.getvalue()


@dataclass(frozen=True)
class Site:
    """A node that builds."""

    equipment: Equipment
    agent: NodeAgent
    reports: Reports

    async def build(self, number: int, artifact: str) -> BuildVersion:
        """Ask for a build of an artifact, and see it begin."""
        command = BuildVersion(
            version=VersionKey(ACCOUNT, "built", f"{number}.0"),
            build_id=f"00000000-0000-4000-8000-{number:012}",
            image_arn=IMAGE_ARN,
            config=VersionConfig(
                "base", ROLE, f"s3://{artifact}", hooks=READY_ONLY, memory_mib=512
            ),
            log=LogTarget("builds", str(number)),
            egress=INTERNET,
        )
        await self.agent.send(command)
        await self.reports.next(BuildStarted)
        return command

    async def log_of(self, command: BuildVersion) -> list[str]:
        await self.equipment.logs.flush()
        page = await self.equipment.logs.read(command.log.group, command.log.stream)
        return [entry.text for entry in page.entries]


@asynccontextmanager
async def site(lab: NodeLab, endpoint: str, directory: Path) -> AsyncIterator[Site]:
    source = SourceSettings(
        region="us-east-1",
        s3_endpoint=endpoint,
        sts_endpoint=endpoint,
        access_key="test",
        secret_key="test",
    )
    cache = await asyncio.to_thread(buildlab.cache, directory)
    shop = NamespaceWorkshop(group=lanes.own().group)
    async with lab.equipment() as equipment:
        builder = ImageBuilder(
            equipment, source, lambda account: BuildOptions(account, cache, shop)
        )
        reports = Reports()
        async with NodeAgent(equipment, builder, reports) as agent:
            yield Site(equipment, agent, reports)


async def test_an_artifact_becomes_a_version_that_runs(
    node_lab: NodeLab, endpoint: str, tmp_path: Path
) -> None:
    async with site(node_lab, endpoint, tmp_path) as s:
        command = await s.build(1, "code/good.zip")
        built = await s.reports.next(BuildSucceeded)
        assert built.sizes.code
        assert built.sizes.memory
        log = await s.log_of(command)
        assert log[0] == "fetching s3://code/good.zip"
        assert log[-1] == "done"
        assert list(s.equipment.paths.tmp.iterdir()) == []

        spec = replace(spec_of(), version=command.version)
        await s.agent.send(StartMicrovm(spec))
        assert await ask((await s.reports.next(Started)).edge_address, "count") == "1"
        await s.agent.send(TerminateMicrovm(spec.microvm_id, spec.generation))
        await s.reports.next(Terminated)


@pytest.mark.parametrize(
    ("number", "artifact", "reason", "last"),
    [
        (2, "code/missing.zip", "S3_NO_SUCH_KEY: ", "error: S3_NO_SUCH_KEY: "),
        (3, "code/none.zip", "ARCHIVE_DOCKERFILE_NOT_FOUND: ", "error: ARCHIVE_DOCKERFILE"),
        (4, "code/ends.zip", "The application ended with code 4", "error: The application ended"),
    ],
)
async def test_a_build_that_fails_says_why_and_leaves_nothing(
    number: int,
    artifact: str,
    reason: str,
    last: str,
    node_lab: NodeLab,
    endpoint: str,
    tmp_path: Path,
) -> None:
    async with site(node_lab, endpoint, tmp_path) as s:
        command = await s.build(number, artifact)
        failed = await s.reports.next(BuildFailed)
        assert failed.reason.startswith(reason)
        log = await s.log_of(command)
        assert log[-1].startswith(last)
        if number == 4:
            assert log[-2] == "no such module", "the last words of the application tell why"
        assert list(s.equipment.paths.tmp.iterdir()) == []
        assert not s.equipment.paths.image(command.version).directory.exists()
