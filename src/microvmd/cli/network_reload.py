"""Reads the operator's mapping of subnets and security groups again while the service runs."""

import asyncio
import tomllib

import pydantic

from microvmd.cli.control_plane import ControlPlane
from microvmd.cli.settings import load
from microvmd.model.errors import ValidationError


async def reload_networks(control: ControlPlane) -> int:
    """How many MicroVMs were told. Raises ValidationError when the settings are wrong, and then
    nothing changes. Other settings are read at start only."""
    try:
        settings = await asyncio.to_thread(load)
    except (pydantic.ValidationError, tomllib.TOMLDecodeError, OSError) as error:
        raise ValidationError(f"The settings cannot be read: {error}") from error
    return await control.remap(settings.network.egress_map)
