"""Where the checkout is that is tested, and what `./run setup` made for it."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("MICROVMD_ASSETS", CHECKOUT / "build" / "assets"))
