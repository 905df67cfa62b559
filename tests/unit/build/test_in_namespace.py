"""The parts of a namespace build that need no namespace."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.build.in_namespace import NamespaceWorkshop, _resolv_conf
from microvmd.build.toolchain import ImageStore, Toolchain
from microvmd.build.workshop import Order, Unenclosed
from microvmd.model.egress import NOTHING


def order(layers: Path) -> Order:
    nothing = Path("/nonexistent")
    stores = (ImageStore(Path("/c/stores/d1/store"), nothing),)
    toolchain = Toolchain(nothing, nothing, "")
    return Order(nothing, nothing, nothing, nothing, layers, stores, toolchain, 1.0)


def test_base_stores_are_seen_below_one_bind(tmp_path: Path) -> None:
    shop = NamespaceWorkshop()
    made = order(tmp_path)
    assert shop.base_path(made.stores[0], 0) == "/build/bases/d1/store"
    (bind,) = shop._base_binds(made)
    assert (bind.source, bind.target, bind.writable) == ("/c/stores", "/build/bases", False)


def test_layers_are_private_and_can_be_forgotten(tmp_path: Path) -> None:
    shop = NamespaceWorkshop()
    made = order(tmp_path / "layers")
    assert not asyncio.run(shop.forget_layers(made))
    layers = shop._prepare_layers(made)
    assert layers.stat().st_mode & 0o777 == 0o700
    assert asyncio.run(shop.forget_layers(made))
    assert not layers.exists()


def test_a_namespace_without_a_resolver_file_has_the_nodes() -> None:
    assert _resolv_conf("no-such-network") == _resolv_conf(None)


def test_a_build_that_must_keep_to_a_connector_is_refused(tmp_path: Path) -> None:
    kept = replace(order(tmp_path), egress=NOTHING)
    with pytest.raises(Unenclosed):
        asyncio.run(NamespaceWorkshop().run(kept, print))
