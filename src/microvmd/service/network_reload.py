"""Reads the operator's mapping of subnets and security groups again while the service runs."""

import asyncio
import tomllib
from collections.abc import Awaitable, Callable

import pydantic

from microvmd.model.errors import ValidationError
from microvmd.service.control_plane import ControlPlane
from microvmd.settings.settings import load


async def reload_networks(
    control: ControlPlane, reload_node: Callable[[], Awaitable[str | None]]
) -> int:
    """How many MicroVMs were told. Raises ValidationError when the settings are wrong, and then
    nothing changes. Other settings are read at start only.

    The node reads them itself, first: it lets nobody open what it has not read. ``reload_node``
    gives its error.
    """
    try:
        settings = await asyncio.to_thread(load)
    except (pydantic.ValidationError, tomllib.TOMLDecodeError, OSError) as unreadable:
        raise ValidationError(f"The settings cannot be read: {unreadable}") from unreadable
    error = await reload_node()
    if error is not None:
        raise ValidationError(f"The node cannot read the settings: {error}")
    return await control.remap(settings.network.egress_map)
