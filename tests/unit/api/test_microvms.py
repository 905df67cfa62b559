"""What is rendered of MicroVMs, and the limit that no shape can say."""

from pathlib import Path

import pytest

from microvmd.model.errors import NotFound, ValidationError
from tests.unit.api.handling import handled
from tests.unit.control.plane import ACCOUNT, IMAGE_ARN, REGION


@pytest.mark.anyio
async def test_microvm_as_run_and_as_it_ends(tmp_path: Path) -> None:
    policy = {
        "maxIdleDurationSeconds": 60,
        "suspendedDurationSeconds": 0,
        "autoResumeEnabled": False,
    }
    async with handled(tmp_path) as api:
        await api.plane.built()
        microvm = await api.running(idlePolicy=policy, maximumDurationInSeconds=60)
        shown = await api("GetMicrovm", microvmIdentifier=microvm)
        assert (shown["state"], shown["idlePolicy"]) == ("RUNNING", policy)
        assert shown["maximumDurationInSeconds"] == 60
        assert shown["endpoint"].endswith(".test")
        assert "runHookPayload" not in shown
        await api("TerminateMicrovm", microvmIdentifier=microvm)
        assert (await api("GetMicrovm", microvmIdentifier=microvm))["state"] == "TERMINATING"


@pytest.mark.anyio
async def test_a_microvm_is_also_known_by_its_arn(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        await api.plane.built()
        microvm = await api.running()
        prefix = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm:"
        shown = await api("GetMicrovm", microvmIdentifier=f"{prefix}{microvm}")
        assert shown["microvmId"] == microvm
        ports = [{"port": 80}]
        assert await api(
            "CreateMicrovmAuthToken",
            microvmIdentifier=f"{prefix}{microvm}",
            expirationInMinutes=1,
            allowedPorts=ports,
        )
        foreign = f"{prefix}{microvm}".replace(ACCOUNT, "999999999999")
        with pytest.raises(NotFound, match=f"MicroVM not found: {foreign}"):
            await api("TerminateMicrovm", microvmIdentifier=foreign)
        await api("TerminateMicrovm", microvmIdentifier=f"{prefix}{microvm}")
        assert (await api("GetMicrovm", microvmIdentifier=microvm))["state"] == "TERMINATING"


@pytest.mark.anyio
async def test_payload_is_counted_in_bytes(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        with pytest.raises(ValidationError, match="less than or equal to 4096"):
            await api("RunMicrovm", imageIdentifier=IMAGE_ARN, runHookPayload="ü" * 2049)
