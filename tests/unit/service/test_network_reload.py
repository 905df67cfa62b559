"""The mapping is read again from the file, and a wrong file changes nothing."""

from pathlib import Path

import pytest

from microvmd.model.errors import ValidationError
from microvmd.service.network_reload import reload_networks
from tests.unit.control.plane import RecordingNode
from tests.unit.service.test_control_plane import _plane

pytestmark = pytest.mark.anyio


async def _node() -> None:
    """Has read it too."""


async def _other_node() -> str:
    return "not mine"


async def test_what_the_node_does_not_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("MICROVMD_CONFIG", str(file))
    file.write_text("")
    async with _plane(tmp_path, RecordingNode()) as control:
        file.write_text('[network.subnets]\nsubnet-1 = ["10.1.0.0/16"]\n')
        with pytest.raises(ValidationError, match="not mine"):
            await reload_networks(control, _other_node)
        assert not control.microvms.use._networks.subnets


async def test_a_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("MICROVMD_CONFIG", str(file))
    file.write_text("")
    async with _plane(tmp_path, RecordingNode()) as control:
        file.write_text('[network.subnets]\nsubnet-1 = ["10.1.0.0/16"]\n')
        assert await reload_networks(control, _node) == 0
        assert list(control.microvms.use._networks.subnets) == ["subnet-1"]
        for wrong in ("[", '[network.subnets]\nsubnet-2 = ["x"]\n'):
            file.write_text(wrong)
            with pytest.raises(ValidationError, match="settings cannot be read"):
                await reload_networks(control, _node)
        assert list(control.microvms.use._networks.subnets) == ["subnet-1"]
