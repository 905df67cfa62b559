"""Where the checkout is that is tested, and what `./run setup` made for it."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("MICROVMD_ASSETS", CHECKOUT / "build" / "assets"))


def folder_of(nodeid: str) -> str:
    """Of a test: its folder below ``tests``."""
    return nodeid.removeprefix("tests/").partition("/")[0]
