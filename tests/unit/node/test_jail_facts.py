"""What counts as a flaw, on a process that has them all; real jails are in tests/security."""

import os
from pathlib import Path

import pytest

from microvmd.node.jail_facts import ProcessFacts, flaws


def test_this_process_is_in_no_jail() -> None:
    found = flaws(os.getpid())
    assert any("shares the mnt namespace of the node" in flaw for flaw in found)
    assert any("its root holds" in flaw for flaw in found)


def test_what_the_kernel_shows_is_read() -> None:
    facts = ProcessFacts(os.getpid())
    assert facts.status()["Pid"] == str(os.getpid())
    assert "/" in facts.mounts()
    assert "lo" in facts.interfaces()
    assert facts.limits()["Max open files"].isdecimal()
    with Path("/dev/zero").open("rb"):
        assert "/dev/zero" in {leads_to for leads_to, _ in facts.descriptors()}
        assert any(flaw == "it has /dev/zero open" for flaw in flaws(os.getpid()))


def test_a_process_that_is_gone() -> None:
    with pytest.raises(OSError, match="No such file"):
        flaws(2**22 + 1)
