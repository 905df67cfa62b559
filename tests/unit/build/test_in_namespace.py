"""The parts of a namespace build that need no namespace."""

from pathlib import Path

from microvmd.build.in_namespace import NamespaceWorkshop, _resolv_conf
from microvmd.build.toolchain import ImageStore, Toolchain
from microvmd.build.workshop import Order


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
    assert not shop.forget_layers(made)
    layers = shop._prepare_layers(made)
    assert layers.stat().st_mode & 0o777 == 0o700
    assert shop.forget_layers(made)
    assert not layers.exists()


def test_a_namespace_without_a_resolver_file_has_the_nodes() -> None:
    assert _resolv_conf("no-such-network") == _resolv_conf(None)
