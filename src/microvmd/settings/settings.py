"""Everything an operator can set, with its default and its meaning.

Flags win over ``MICROVMD_*`` variables, variables over ``/etc/microvmd/config.toml`` (or the file
that ``MICROVMD_CONFIG`` names). A setting ``[build] isolation`` of the file is
``MICROVMD_BUILD_ISOLATION`` as a variable. ``docs/reference/settings.md`` is made from this module.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from microvmd.control.managed import BaseStatus
from microvmd.model.capacity import DISK_MIB, MICROVM_MIB, RESERVE_MIB, CapacityRules
from microvmd.model.pool import PoolRules
from microvmd.model.quota import QUOTAS, Quotas
from microvmd.model.rate import LONGEST_WAIT_S, OTHERS, RATES, RateLimits
from microvmd.model.size import LARGEST_MIB, SMALLEST_MIB, Sizes
from microvmd.settings.build import BuildSettings
from microvmd.settings.console import ConsoleSettings
from microvmd.settings.network import NetworkSettings
from microvmd.settings.observe import (
    AuditSettings,
    EventSettings,
    MetricsSettings,
    PriceSettings,
    TraceSettings,
)
from microvmd.settings.pool import PoolSettings
from microvmd.settings.section import AbsolutePath, Section
from microvmd.vmm.machine import Wanted

CONFIG_VARIABLE = "MICROVMD_CONFIG"
DEFAULT_CONFIG = Path("/etc/microvmd/config.toml")
INSTALLED_ASSETS = Path("/usr/lib/microvmd")
HTTPS = 443
HTTPS_UNPRIVILEGED = 8443
# One /30 for each MicroVM's veth pair.
ADDRESSES_PER_MICROVM = 4


def default_assets() -> Path:
    """Of a checkout when ``./run setup`` has filled it, else those of an installation."""
    checkout = Path(__file__).parents[3] / "build" / "assets"
    return checkout if checkout.is_dir() else INSTALLED_ASSETS


RATE_SETTINGS = {
    "run_rate": "RunMicrovm",
    "suspend_rate": "SuspendMicrovm",
    "resume_rate": "ResumeMicrovm",
    "terminate_rate": "TerminateMicrovm",
    "get_rate": "GetMicrovm",
    "auth_token_rate": "CreateMicrovmAuthToken",
    "shell_token_rate": "CreateMicrovmShellAuthToken",
}
"""Settings of ``[limits]`` that are the rate of one operation."""

Port = Annotated[int, Field(ge=1, le=65535)]
Calls = Annotated[float, Field(ge=0)]


class ServiceSettings(Section):
    """Who the service is on this machine."""

    user: str = Field(
        default="microvmd",
        pattern=r"^[a-z_][a-z0-9_-]{0,30}$",
        description="account that API, control plane, edge and local AWS run as, made by ./run "
        "setup; only the node keeps root. root gives up that separation",
    )


class ApiSettings(Section):
    """Where AWS clients connect to."""

    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: Port = Field(default=8480, description="port that the API listens on (plain HTTP)")

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class EdgeSettings(Section):
    """Where requests to MicroVMs arrive."""

    domain: str = Field(
        default="microvm.localhost",
        pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*$",
        description="domain under which every MicroVM gets its endpoint name; "
        "names under .localhost resolve on this machine only",
    )
    host: str = Field(default="127.0.0.1", description="address that the edge listens on")
    port: Port | Literal["auto"] = Field(
        default="auto",
        description="port of all endpoints (HTTPS); auto is 443 where that is free, else 8443, "
        "which then is a part of each endpoint",
    )
    shells: int = Field(
        default=16, ge=0, le=64, description="shell sessions of one MicroVM at a time"
    )
    connections_per_vcpu: int = Field(
        default=8,
        ge=0,
        description="HTTP/1.1 requests in progress and WebSockets of one endpoint, for each "
        "processor that its MicroVM sees; more are refused with 429. 0 is no limit",
    )
    streams_per_vcpu: int = Field(
        default=64,
        ge=0,
        description="all requests in progress of one endpoint, those over HTTP/2 included, "
        "likewise; 0 is no limit",
    )
    requests_per_vcpu: int = Field(
        default=10,
        ge=0,
        description="requests of one endpoint per second, on the average of ten seconds, likewise; "
        "0 is no limit",
    )
    connections_per_source: int | None = Field(
        default=None,
        ge=0,
        description="connections from one client address, whoever they are for; none means a "
        "quarter of all that the edge takes, 0 is no limit",
    )
    refusals_per_source: int = Field(
        default=200,
        ge=0,
        description="requests without a valid token from one client address in ten seconds, after "
        "which such requests are answered with 429, and refusals that wait for the rest of a small "
        "body, after which they do not wait; 0 is no limit",
    )


class VmmSettings(Section):
    """How machines are run."""

    kind: Literal["auto", "qemu", "firecracker"] = Field(
        default="qemu",
        description="the program that runs machines; firecracker needs KVM, auto takes it where it "
        "can run and QEMU elsewhere; a snapshot only restores under the one that made it",
    )
    offered: tuple[Literal["qemu", "firecracker"], ...] = Field(
        default=(),
        description="VMMs beside kind that an image may choose by its tag microvmd:vmm; the node "
        "does not start where one of them cannot run",
    )
    firecracker_sha256: str = Field(
        default="",
        pattern="^([0-9a-f]{64})?$",
        description="digest of the only program that is taken for Firecracker; none means any "
        "supported version",
    )
    cpu_template: Literal["", "C3", "T2", "T2S", "T2CL", "T2A"] = Field(
        default="",
        description="Firecracker's CPU template, to make processors of several kinds look alike; "
        "images are built again after a change",
    )
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        default="auto",
        description="auto tries KVM with a probe guest and falls back to emulation (TCG); "
        "a snapshot only restores under the accelerator that made it",
    )
    probe_seconds: float = Field(
        default=5.0,
        gt=0,
        description="how long the probe guest of auto may take to boot: more where a slow KVM is "
        "wanted all the same, as nested or emulated ones are",
    )
    uid_first: int = Field(
        default=700_000,
        ge=65_536,
        description="first user id of the range that VMM processes run as",
    )
    uid_count: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="size of that range: one id for each live MicroVM",
    )
    seccomp: Literal["enforce", "log", "off"] = Field(
        default="enforce",
        description="our filter of a VMM's system calls; log and off only to look for a fault",
    )

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.kind, self.firecracker_sha256, self.cpu_template)


class ImageSettings(Section):
    """What images may ask for."""

    memory_sizes: tuple[Annotated[int, Field(ge=SMALLEST_MIB, le=LARGEST_MIB)], ...] = Field(
        default=(),
        description="baseline memory sizes in MiB beside those of AWS, for example [256, 16384]; "
        "a guest sees four times its baseline",
    )
    base_status: dict[Annotated[str, Field(pattern="^[01]$")], BaseStatus] = Field(
        default_factory=dict,
        description="lifecycle of managed base image versions, where it is not AVAILABLE: "
        'for example {"0" = "DEPRECATED"}; RECALLED ones neither build nor run',
    )

    @property
    def sizes(self) -> Sizes:
        return Sizes.with_own(self.memory_sizes)


class RetentionSettings(Section):
    """How long things are remembered."""

    terminated_hours: float = Field(
        default=24.0,
        gt=0,
        description="how long TERMINATED MicroVMs stay in Get and List; their client tokens "
        "are forgotten with them",
    )
    event_days: float = Field(
        default=30.0, gt=0, description="how long events are kept (microvmd events)"
    )
    usage_days: float = Field(
        default=400.0, gt=0, description="how long usage is kept (microvmd usage)"
    )
    log_days: float = Field(
        default=14.0,
        gt=0,
        description="how long the log of a MicroVM or a build is kept on this machine after its "
        "last line",
    )


class AwsSettings(Section):
    """The neighbours of Lambda: where artifacts, roles and logs live."""

    local: bool = Field(
        default=True, description="answer s3, sts, iam, logs and kms calls on the API's own port"
    )
    local_log_mib: int = Field(
        default=64,
        ge=1,
        description="in local mode, memory that log events may take; what was written least "
        "recently goes first (microvmd logs has it still)",
    )
    local_s3_mib: int = Field(
        default=2048,
        ge=64,
        description="in local mode, what the objects of one account may take: small ones of "
        "memory, large ones of the directory for temporary files",
    )
    roles_must_exist: bool = Field(
        default=False,
        description="in local mode, refuse roles that were not made with iam create-role",
    )
    s3_endpoint: str | None = Field(default=None, description="S3 endpoint when not local")
    sts_endpoint: str | None = Field(default=None, description="STS endpoint when not local")
    logs_endpoint: str | None = Field(
        default=None, description="CloudWatch Logs endpoint when not local; AWS's own if not given"
    )
    kms_endpoint: str | None = Field(
        default=None, description="KMS endpoint when not local; none is AWS's own of the region"
    )


class EncryptionSettings(Section):
    """Images and MicroVMs with a kmsKeyIdentifier: their plain files are in memory only."""

    key_cache_seconds: int = Field(
        default=60,
        ge=0,
        le=3600,
        description="how long an opened data key is remembered for the role that opened it; "
        "a key that is disabled takes effect at the latest after that",
    )
    memory_mib: int | None = Field(
        default=None,
        ge=64,
        description="memory that all plain files together may take; none means half of the machine",
    )
    disk_mib: int = Field(
        default=1024,
        ge=64,
        description="how much one such MicroVM may write to its disk between two resumes: "
        "the disk is in memory meanwhile",
    )


def _calls(operation: str) -> str:
    return f"{operation} calls per second and account; 0 is no limit"


class LimitSettings(Section):
    """What one account may do and have, as AWS limits it, and how full the machine may be."""

    run_rate: Calls = Field(default=RATES["RunMicrovm"], description=_calls("RunMicrovm"))
    suspend_rate: Calls = Field(
        default=RATES["SuspendMicrovm"], description=_calls("SuspendMicrovm")
    )
    resume_rate: Calls = Field(default=RATES["ResumeMicrovm"], description=_calls("ResumeMicrovm"))
    terminate_rate: Calls = Field(
        default=RATES["TerminateMicrovm"], description=_calls("TerminateMicrovm")
    )
    get_rate: Calls = Field(default=RATES["GetMicrovm"], description=_calls("GetMicrovm"))
    auth_token_rate: Calls = Field(
        default=RATES["CreateMicrovmAuthToken"], description=_calls("CreateMicrovmAuthToken")
    )
    shell_token_rate: Calls = Field(
        default=RATES["CreateMicrovmShellAuthToken"],
        description=_calls("CreateMicrovmShellAuthToken"),
    )
    other_rate: Calls = Field(
        default=OTHERS, description="calls per second of each operation that has no rate of its own"
    )
    wait_seconds: float = Field(
        default=LONGEST_WAIT_S,
        ge=0,
        le=60,
        description="longest time that a call above its rate is held back; one that would have to "
        "wait longer is refused at once (429)",
    )

    memory_mib: int = Field(
        default=QUOTAS.memory_mib,
        ge=0,
        description="baseline memory of all MicroVMs that are not TERMINATED and of image builds "
        "in flight, of one account; 0 is no limit",
    )
    images: int = Field(
        default=QUOTAS.images, ge=0, description="images of one account; 0 is no limit"
    )
    versions: int = Field(
        default=QUOTAS.versions, ge=0, description="versions of one image; 0 is no limit"
    )
    builds: int = Field(
        default=QUOTAS.builds,
        ge=0,
        description="image builds of one account at a time; 0 is no limit",
    )
    reserve_mib: int = Field(
        default=RESERVE_MIB,
        ge=0,
        description="memory that is left free: a run, resume or build that would need it is "
        "refused (InsufficientCapacityException)",
    )
    microvm_mib: int = Field(
        default=MICROVM_MIB,
        ge=1,
        description="memory that each MicroVM is counted with at least, from before it starts; "
        "one that uses more is counted with what it uses",
    )
    overcommit: float = Field(
        default=0,
        ge=0,
        description="baseline memory of all MicroVMs and builds that are on the machine, as a "
        "multiple of the machine's memory; 0 is no limit",
    )
    disk_mib: int = Field(
        default=DISK_MIB,
        ge=0,
        description="free disk space below which nothing is run, resumed or built: a suspend "
        "needs room",
    )

    @property
    def capacity(self) -> CapacityRules:
        return CapacityRules(self.reserve_mib, self.microvm_mib, self.overcommit, self.disk_mib)

    @property
    def quotas(self) -> Quotas:
        return Quotas(self.memory_mib, self.images, self.versions, self.builds)

    @property
    def rates(self) -> RateLimits:
        """The rates by operation."""
        named = {operation: getattr(self, name) for name, operation in RATE_SETTINGS.items()}
        return RateLimits(named, self.other_rate, self.wait_seconds)


class Settings(BaseSettings):
    """All settings of one service."""

    model_config = SettingsConfigDict(
        env_prefix="MICROVMD_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        extra="forbid",
    )

    root: AbsolutePath = Field(
        default=Path("/var/lib/microvmd"), description="everything that must survive a restart"
    )
    cache: AbsolutePath = Field(
        default=Path("/var/cache/microvmd"),
        description="what can be made again: bases, kernels, build layers; may be shared",
    )
    run: AbsolutePath = Field(
        default=Path("/run/microvmd/default"),
        description="sockets and what else ends with the machine",
    )
    assets: AbsolutePath = Field(
        default_factory=default_assets,
        description="guest kernel, guest agent and jailer, as made by ./run setup",
    )
    region: str = Field(
        default="us-east-1",
        pattern=r"^[a-z0-9-]+$",
        description="region in ARNs and endpoint names",
    )
    account: str = Field(default="000000000000", pattern=r"^\d{12}$", description="account in ARNs")
    profile: str = Field(
        default="microvmd",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="AWS profile that the service writes and the commands use",
    )
    service: ServiceSettings = ServiceSettings()
    api: ApiSettings = ApiSettings()
    edge: EdgeSettings = EdgeSettings()
    vmm: VmmSettings = VmmSettings()
    pool: PoolSettings = PoolSettings()
    build: BuildSettings = Field(default_factory=BuildSettings)
    image: ImageSettings = Field(default_factory=ImageSettings)
    network: NetworkSettings = NetworkSettings()
    console: ConsoleSettings = ConsoleSettings()
    events: EventSettings = EventSettings()
    metrics: MetricsSettings = MetricsSettings()
    audit: AuditSettings = AuditSettings()
    traces: TraceSettings = TraceSettings()
    prices: PriceSettings = PriceSettings()
    retention: RetentionSettings = RetentionSettings()
    aws: AwsSettings = AwsSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    limits: LimitSettings = LimitSettings()

    @property
    def pool_rules(self) -> PoolRules:
        limits = self.limits
        return self.pool.rules(reserve_mib=limits.reserve_mib, microvm_mib=limits.microvm_mib)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.network.subnet.num_addresses < ADDRESSES_PER_MICROVM:
            raise ValueError(f"network.subnet {self.network.subnet} has no room for a MicroVM")
        if not self.aws.local and not (self.aws.s3_endpoint and self.aws.sts_endpoint):
            raise ValueError("aws.local is off: set aws.s3_endpoint and aws.sts_endpoint")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=config_file()),
        )


class ConfigFileMissing(Exception):
    """MICROVMD_CONFIG names a file that does not exist."""


def config_file() -> Path:
    """The file in force; the default one need not exist, a named one must."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named is None:
        return DEFAULT_CONFIG
    if not Path(named).is_file():
        raise ConfigFileMissing(f"{CONFIG_VARIABLE} names {named}, which is not a file")
    return Path(named)


def load(**flags: object) -> Settings:
    """Settings in force. A flag left at None does not count: ``load(api={"port": 9000})``."""
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    return Settings(**given)
