"""`ip` and `nft` act where they are told, and a failure is an error."""

import asyncio
import json
from pathlib import Path

import pytest

from microvmd.node import namespace
from microvmd.node.commands import ip, nft, query
from microvmd.node.namespace import Visitor
from microvmd.vmm.process import ProcessFailed

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


async def in_namespace(path: Path) -> None:
    enter = ("nsenter", f"--net={path}")
    await ip(["link set lo up", "address add 192.0.2.77/32 dev lo"], path)
    shown = json.loads(await query(*enter, "ip", "-json", "address", "show", "dev", "lo"))
    assert "192.0.2.77" in [item["local"] for item in shown[0]["addr_info"]]
    assert b"192.0.2.77" not in await query("ip", "address")

    await nft("table inet commands_test { }\n", path)
    assert b"commands_test" in await query(*enter, "nft", "list", "tables")
    assert b"commands_test" not in await query("nft", "list", "tables")

    with pytest.raises(ProcessFailed, match="nothere"):
        await ip(["link set nothere up", "address add 192.0.2.78/32 dev lo"], path)
    assert b"192.0.2.78" not in await query(*enter, "ip", "address")

    with pytest.raises(ProcessFailed, match="nothere"):
        await nft("table inet half { }\nflush chain inet nothere x\n", path)
    assert b"half" not in await query(*enter, "nft", "list", "tables")


def test_commands_act_in_the_namespace_all_or_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        with Visitor() as visitor:
            await visitor.make(tmp_path / "one", lambda: None)
        try:
            await in_namespace(tmp_path / "one")
        finally:
            namespace.destroy(tmp_path / "one")

    asyncio.run(main())
