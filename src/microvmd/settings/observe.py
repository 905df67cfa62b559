"""``[events]``, ``[metrics]``, ``[audit]``, ``[traces]``, ``[prices]``: what the service tells.

::

    [[events.webhooks]]
    url = "http://127.0.0.1:9000/microvmd"
    secret = "whsec_..."
    kinds = ["MicroVM State Change"]
"""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, SecretStr

from microvmd.model.event import Kind
from microvmd.model.metering import Prices
from microvmd.model.webhook import Webhook
from microvmd.settings.section import Section

SECRET_MARK = "whsec_"  # noqa: S105 - as Standard Webhooks marks a secret
SHORTEST_SECRET = 24
PRICES = Prices()


def _secret(given: SecretStr) -> SecretStr:
    key = _key(given)
    if len(key) < SHORTEST_SECRET:
        raise ValueError(f"a secret needs {SHORTEST_SECRET} bytes at least")
    return given


def _key(given: SecretStr) -> bytes:
    text = given.get_secret_value()
    if not text.startswith(SECRET_MARK):
        raise ValueError(f"a secret is {SECRET_MARK} and Base64: openssl rand -base64 32")
    try:
        return base64.b64decode(text.removeprefix(SECRET_MARK), validate=True)
    except binascii.Error as error:
        raise ValueError(f"what follows {SECRET_MARK} is no Base64") from error


class WebhookSettings(BaseModel):
    """One receiver; of all accounts and kinds if none is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    secret: Annotated[SecretStr, AfterValidator(_secret)]
    accounts: tuple[Annotated[str, Field(pattern=r"^\d{12}$")], ...] = ()
    kinds: tuple[Kind, ...] = ()

    @property
    def webhook(self) -> Webhook:
        return Webhook(
            str(self.url), _key(self.secret), frozenset(self.accounts), frozenset(self.kinds)
        )


class EventSettings(Section):
    """Whom the service tells what happens."""

    webhooks: tuple[WebhookSettings, ...] = Field(
        default=(),
        description="receivers of events: a list of tables with url, secret and, to choose, "
        "accounts and kinds (docs/how-to/events.md)",
    )


class MetricsSettings(Section):
    """What ``/metrics`` shows."""

    microvms: int = Field(
        default=200, ge=0, description="how many MicroVMs, the newest, have metrics of their own"
    )


class AuditSettings(Section):
    """The record of calls (``microvmd audit``)."""

    reads: bool = Field(
        default=True, description="record calls that change nothing too (Get, List)"
    )
    days: float = Field(default=90.0, gt=0, description="how long calls are kept")
    mib: int = Field(
        default=1024,
        ge=16,
        description="disk space that they may take; the oldest go first (a call takes about 1 KiB)",
    )


class TraceSettings(Section):
    """Where spans of calls and starts go."""

    endpoint: HttpUrl | None = Field(
        default=None,
        description="where traces go over OTLP/HTTP, as http://127.0.0.1:4318/v1/traces; nowhere "
        "if not given",
    )
    ratio: float = Field(default=1.0, ge=0, le=1, description="part of the calls that are traced")


class PriceSettings(Section):
    """What usage costs; AWS's prices in US dollars (us-east-1, 2026-08-07) if not set."""

    currency: str = Field(default="USD", max_length=8, description="shown beside costs")
    vcpu_second: float = Field(default=PRICES.vcpu_s, ge=0, description="of a RUNNING MicroVM")
    memory_gb_second: float = Field(
        default=PRICES.memory_gb_s, ge=0, description="of a RUNNING MicroVM"
    )
    snapshot_write_gb: float = Field(default=PRICES.written_gb, ge=0, description="each suspend")
    snapshot_read_gb: float = Field(
        default=PRICES.read_gb, ge=0, description="each run and each resume"
    )
    snapshot_gb_hour: float = Field(
        default=PRICES.stored_gb_hour, ge=0, description="while SUSPENDED"
    )

    @property
    def prices(self) -> Prices:
        return Prices(
            self.vcpu_second,
            self.memory_gb_second,
            self.snapshot_write_gb,
            self.snapshot_read_gb,
            self.snapshot_gb_hour,
        )
