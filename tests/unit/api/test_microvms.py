"""What is rendered of MicroVMs, and the limit that no shape can say."""

from pathlib import Path

import pytest

from microvmd.model.errors import ValidationError
from tests.unit.api.handling import handled
from tests.unit.control.plane import IMAGE_ARN


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
async def test_payload_is_counted_in_bytes(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        with pytest.raises(ValidationError, match="less than or equal to 4096"):
            await api("RunMicrovm", imageIdentifier=IMAGE_ARN, runHookPayload="ü" * 2049)
