"""Which layer store a build uses, and which stores go."""

import os
from pathlib import Path

from microvmd.build import layers
from microvmd.build.lock import if_free


def test_a_store_is_of_one_account_and_one_set_of_bases(tmp_path: Path) -> None:
    one = layers.place(tmp_path, "1", ["a", "b"])
    assert one == layers.place(tmp_path, "1", ["b", "a"])
    assert len({one, layers.place(tmp_path, "2", ["a", "b"]), layers.place(tmp_path, "1", [])}) == 3


def test_the_stores_used_longest_ago_go_unless_in_use(tmp_path: Path) -> None:
    stores = [layers.place(tmp_path, "1", [str(number)]) for number in range(4)]
    for age, store in enumerate(stores):
        layers.mark_used(store)
        (store / "layer").write_text("x")
        os.utime(store, (1000 - age, 1000 - age))
    with if_free(layers.lock_of(stores[3])) as free:
        assert free
        assert layers.prune(stores[0].parent, kept=2) == [stores[2]]
    assert [store.exists() for store in stores] == [True, True, False, True]
    layers.mark_used(stores[3])
    assert layers.prune(stores[0].parent, kept=2) == [stores[1]]
