"""Limits of a MicroVM's network as settings: what is no limit is refused."""

import pytest
from pydantic import ValidationError

from microvmd.settings.network import NetworkSettings


def test_bandwidth_may_be_unlimited_and_connections_not() -> None:
    assert NetworkSettings(bandwidth_mbit=0).bandwidth_mbit == 0
    for name in ("connections", "connection_rate"):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            NetworkSettings.model_validate({name: 0})


def test_a_prefix_ends_in_a_letter() -> None:
    assert NetworkSettings(prefix="mv7x").prefix == "mv7x"
    with pytest.raises(ValidationError, match="pattern"):
        NetworkSettings(prefix="mv7")
