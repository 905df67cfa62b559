"""What of the settings the node's networks get."""

from pathlib import Path

import pytest

from microvmd.cli import node
from microvmd.cli.settings import CONFIG_VARIABLE, load


def test_limits_of_a_network_are_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[network]\nconnections = 7\nconnection_rate = 8\nbandwidth_mbit = 9\n")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    made = node._network_settings(load())
    assert (made.connections, made.connection_rate, made.bandwidth_mbit) == (7, 8, 9)
