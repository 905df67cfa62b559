"""From the settings to what a build is allowed: the wiring of ``microvmd.build``."""

from microvmd.build.builder import BuildOptions
from microvmd.build.in_microvm import MicrovmWorkshop
from microvmd.build.in_namespace import NamespaceWorkshop
from microvmd.build.layers import LayerLimits
from microvmd.build.workshop import Workshop
from microvmd.node.bring_up import Equipment
from microvmd.settings.settings import Settings


def build_options(settings: Settings, equipment: Equipment, account: str) -> BuildOptions:
    """What the operator decided for builds of this account."""
    build = settings.build
    return BuildOptions(
        account=account,
        cache=settings.cache,
        workshop=_workshop(settings, equipment),
        registries=build.registries,
        time_limit=float(build.timeout_seconds),
        rootfs_limit=build.image_mib << 20,
        ca_bundle=build.ca_bundle,
        layer_limits=LayerLimits(build.layers_mib << 20, build.layers_total_mib << 20),
        log_lines=build.log_lines,
    )


def cgroup_of(settings: Settings) -> str:
    """The parent of all control groups of this instance."""
    return f"microvmd-{settings.network.prefix}"


def _workshop(settings: Settings, equipment: Equipment) -> Workshop:
    build = settings.build
    if build.isolation == "namespace":
        return NamespaceWorkshop(
            memory_mib=build.memory_mib,
            disk_bytes=build.disk_mib << 20,
            group=cgroup_of(settings),
        )
    return MicrovmWorkshop(
        kernel=equipment.kernel,
        accelerator=equipment.accelerator,
        vmm=equipment.vmm,
        networks=equipment.networks,
        jails=equipment.jails,
        host_cpus=equipment.host_cpus,
        memory_mib=build.memory_mib,
        disk_bytes=build.disk_mib << 20,
        image_bytes=build.image_mib << 20,
    )
