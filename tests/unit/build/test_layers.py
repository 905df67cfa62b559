"""Which layer store a build uses, and which stores go."""

import asyncio
import os
from pathlib import Path

from microvmd.build import layers
from microvmd.build.layers import LayerLimits
from microvmd.build.lock import if_free

MIB = 1 << 20


def made(cache: Path, account: str, base: str, age: int, mib: int = 1) -> Path:
    """A store of so many MiB, used so long ago."""
    store = layers.place(cache, account, [base])
    layers.mark_used(store)
    (store / "layer").write_bytes(b"x" * mib * MIB)
    os.utime(store, (100_000 - age, 100_000 - age))
    return store


def prune(cache: Path, account_mib: int, total_mib: int) -> list[Path]:
    # What folders themselves take is less than half a MiB here.
    half = MIB // 2
    limits = LayerLimits(account_mib * MIB + half, total_mib * MIB + half)
    return asyncio.run(layers.prune(cache / "layers", limits))


def test_a_store_is_of_one_account_and_one_set_of_bases(tmp_path: Path) -> None:
    one = layers.place(tmp_path, "1", ["a", "b"])
    assert one == layers.place(tmp_path, "1", ["b", "a"])
    assert len({one, layers.place(tmp_path, "2", ["a", "b"]), layers.place(tmp_path, "1", [])}) == 3


def test_the_stores_used_longest_ago_go_unless_in_use(tmp_path: Path) -> None:
    stores = [made(tmp_path, "1", str(number), age=number) for number in range(4)]
    with if_free(layers.lock_of(stores[3])) as free:
        assert free
        assert prune(tmp_path, 2, 9) == [stores[2], stores[1]]
    assert [store.exists() for store in stores] == [True, False, False, True]
    assert prune(tmp_path, 1, 9) == [stores[3]]
    assert prune(tmp_path, 1, 9) == []


def test_an_account_pays_for_itself_and_the_oldest_of_all_for_the_whole(tmp_path: Path) -> None:
    old, new = made(tmp_path, "1", "a", age=50), made(tmp_path, "1", "b", age=10)
    oldest = made(tmp_path, "2", "a", age=90)
    newest = made(tmp_path, "2", "b", age=1, mib=2)
    assert prune(tmp_path, 3, 9) == []
    assert prune(tmp_path, 3, 4) == [oldest]
    assert prune(tmp_path, 2, 3) == [old]
    assert new.exists()
    assert newest.exists()


def test_a_store_larger_than_an_account_may_keep_costs_the_others_nothing(tmp_path: Path) -> None:
    small, large = made(tmp_path, "1", "a", age=50), made(tmp_path, "1", "b", age=1, mib=5)
    assert prune(tmp_path, 3, 9) == [large]
    assert small.exists()


def test_a_store_is_measured_again_after_it_was_used(tmp_path: Path) -> None:
    store = made(tmp_path, "1", "a", age=1)
    assert prune(tmp_path, 2, 9) == []
    assert layers.mark_used(store)
    (store / "more").write_bytes(b"x" * 4 * MIB)
    assert prune(tmp_path, 2, 9) == [store]


def test_folders_too_deep_for_a_path_are_measured_and_removed(tmp_path: Path) -> None:
    store = made(tmp_path, "1", "a", age=1)
    here = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert prune(tmp_path, 1, 9) == [store]
    assert not store.exists()
