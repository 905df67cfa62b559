"""What measurements share: percentiles, and the JSON that two commits are compared by."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microvmd.cli.output import console

RESULTS = Path(__file__).parents[1] / "build" / "bench"


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was measured, never one in between."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)]


def write(name: str, results: Mapping[str, Any]) -> None:
    """Keep the results with what they were measured on."""
    machine = {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "python": sys.version.split()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({**results, "machine": machine}, indent=1) + "\n")
    console.print(f"[dim]{path}[/]")
