"""Reading the master's list of processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from microvmd.edge import stats

SHOWN = """#<PID>          <type>          <reloads>       <uptime>        <version>
21903           master          1 [failed: 0]   0d00h18m33s     2.6.12-1+deb12u4
# workers
21950           worker          0               0d00h00m33s     2.6.12-1+deb12u4
# old workers
21904           worker          1               0d00h18m33s     2.6.12-1+deb12u4
# programs

"""


def test_processes_by_kind() -> None:
    assert stats.parse_processes(SHOWN) == {"master": [21903], "worker": [21950], "old": [21904]}
    assert stats.parse_processes("") == {"master": [], "worker": [], "old": []}


def test_no_socket_is_a_failed_command(tmp_path: Path) -> None:
    with pytest.raises(stats.CommandFailed, match="show info"):
        asyncio.run(stats.command(tmp_path / "none.sock", "show info"))
    assert asyncio.run(stats.description(tmp_path / "none.sock")) is None
