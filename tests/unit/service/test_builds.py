"""Every limit of the settings reaches the build."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from microvmd.build.in_microvm import MicrovmWorkshop
from microvmd.build.in_namespace import NamespaceWorkshop
from microvmd.service.builds import build_options, cgroup_of
from microvmd.settings.build import BuildSettings
from microvmd.settings.settings import Settings

EQUIPMENT: Any = cast(
    "Any", SimpleNamespace(kernel=1, accelerator=2, networks=3, jails=4, host_cpus=5, vmm=6)
)


def chosen(tmp_path: Path, **build: Any) -> Settings:
    limits = {"memory_mib": 600, "disk_mib": 300, "image_mib": 200, "layers_mib": 100}
    limits |= {"layers_total_mib": 400, "log_lines": 7, "timeout_seconds": 11}
    section = BuildSettings.model_validate(limits | {"registries": ("docker.io",)} | build)
    return Settings(root=tmp_path, cache=tmp_path / "cache", build=section)


def test_a_build_machine_has_the_limits(tmp_path: Path) -> None:
    options = build_options(chosen(tmp_path), EQUIPMENT, "1")
    assert (options.account, options.cache) == ("1", tmp_path / "cache")
    assert (options.time_limit, options.log_lines) == (11.0, 7)
    assert (options.rootfs_limit, options.registries) == (200 << 20, ("docker.io",))
    assert options.layer_limits.account_bytes == 100 << 20
    assert options.layer_limits.total_bytes == 400 << 20
    shop = options.workshop
    assert isinstance(shop, MicrovmWorkshop)
    assert (shop.memory_mib, shop.disk_bytes, shop.image_bytes) == (600, 300 << 20, 200 << 20)
    assert shop.host_cpus == 5


def test_namespaces_have_them_too(tmp_path: Path) -> None:
    settings = chosen(tmp_path, isolation="namespace")
    shop = build_options(settings, EQUIPMENT, "1").workshop
    assert isinstance(shop, NamespaceWorkshop)
    assert (shop.memory_mib, shop.disk_bytes) == (600, 300 << 20)
    assert shop.group == cgroup_of(settings) == f"microvmd-{settings.network.prefix}"
