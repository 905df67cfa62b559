"""Whoever opens a leased file waits; a holder that is too slow is told so."""

import threading
from pathlib import Path

import pytest

from microvmd.vmm import lease
from microvmd.vmm.lease import LeaseLost, held_up

LIMIT = 10


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_text("content")
    return path


def test_an_open_waits_until_the_lease_is_lifted(disk: Path) -> None:
    begun, order = threading.Event(), []

    def opens() -> None:
        begun.set()
        with disk.open("r+b"):
            order.append("opened")

    thread = threading.Thread(target=opens)
    with held_up(disk) as held:
        thread.start()
        assert begun.wait(LIMIT)
        order.append("lifted")
        held.lift()
        thread.join(LIMIT)
    assert order == ["lifted", "opened"]


def test_the_end_of_the_context_lets_it_go(disk: Path) -> None:
    with held_up(disk):
        pass
    assert disk.read_text() == "content"


def test_a_file_that_is_open_cannot_be_held_up(disk: Path) -> None:
    with disk.open("r+b"), pytest.raises(BlockingIOError), held_up(disk):
        pass


def test_a_lease_that_the_kernel_may_have_taken_is_lost(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "limit"
    monkeypatch.setattr(lease, "LIMIT_FILE", limit)
    with held_up(disk) as held:
        limit.write_text("1\n")
        held._begun -= 2
        with pytest.raises(LeaseLost, match="more than 1 s"):
            held.lift()
    with held_up(disk) as held:
        limit.write_text("0\n")
        held._begun -= 1000
        held.lift()
