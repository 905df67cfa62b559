"""The platform's own network connectors, and the lists of connectors that requests carry.

Whether a connector of an account exists is the store's to say (``control/egress.py``).
"""

from collections.abc import Sequence
from enum import StrEnum

from microvmd.model.errors import ValidationError
from microvmd.model.identifiers import is_connector_arn

_MANAGED = "network-connector:aws-network-connector:"
EGRESS_MEMBER = "egressNetworkConnectors"
"""What a MicroVM may reach, by ARNs of connectors: the member of RunMicrovm."""


class Ingress(StrEnum):
    """Managed ingress connectors."""

    HTTP = "HTTP_INGRESS"
    ALL = "ALL_INGRESS"
    SHELL = "SHELL_INGRESS"
    NONE = "NO_INGRESS"


class Egress(StrEnum):
    """Managed egress connectors. NO_EGRESS is ours; AWS takes no such name."""

    INTERNET = "INTERNET_EGRESS"
    NONE = "NO_EGRESS"


NONE_WITH_OTHERS = "NO_EGRESS cannot be combined with other egress network connectors"
SHELL_WITH_ALL = (
    "ALL_INGRESS cannot be combined with other ingress network connectors; "
    "use HTTP_INGRESS and/or SHELL_INGRESS instead"
)
SHELL_MISSING = (
    "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM."
)


def managed_arn(name: Ingress | Egress, region: str) -> str:
    return f"arn:aws:lambda:{region}:aws:{_MANAGED}{name.value}"


def resolve_ingress(asked: Sequence[str] | None, region: str) -> tuple[str, ...]:
    """The list that is echoed; an omitted or empty one means HTTP_INGRESS."""
    return _resolve(asked, Ingress.HTTP, tuple(Ingress), region)


def resolve_egress(asked: Sequence[str] | None, region: str) -> tuple[str, ...]:
    """The list that is echoed; an omitted or empty one means INTERNET_EGRESS. Connectors of an
    account may be in it."""
    resolved = _resolve(asked, Egress.INTERNET, tuple(Egress), region, own=True)
    if len(resolved) > 1 and any(
        not is_own(arn) and name_of(arn) == Egress.NONE for arn in resolved
    ):
        raise ValidationError(NONE_WITH_OTHERS)
    return resolved


def _resolve(
    asked: Sequence[str] | None,
    default: Ingress | Egress,
    allowed: Sequence[Ingress | Egress],
    region: str,
    *,
    own: bool = False,
) -> tuple[str, ...]:
    if not asked:
        return (managed_arn(default, region),)
    for arn in asked:
        if not is_connector_arn(arn):
            raise ValidationError("Malformed network connector ARN")
        if not is_own(arn) and name_of(arn) not in {item.value for item in allowed}:
            raise ValidationError("Unrecognized managed network connector ARN")
        if is_own(arn) and not own:
            raise ValidationError(f"Network connector is not for ingress: {arn}")
    return tuple(asked)


def is_own(arn: str) -> bool:
    """Tell an account's connector from a managed one, whose account is ``aws``."""
    return arn.split(":")[4] != "aws"


def name_of(arn: str) -> str:
    """The last part of a connector's ARN."""
    return arn.rsplit(":", 1)[-1]


def allows_http(ingress: Sequence[str]) -> bool:
    return bool({name_of(arn) for arn in ingress} & {Ingress.HTTP.value, Ingress.ALL.value})


def allows_shell(ingress: Sequence[str]) -> bool:
    names = {name_of(arn) for arn in ingress}
    return Ingress.SHELL.value in names and Ingress.ALL.value not in names


def check_shell(ingress: Sequence[str]) -> None:
    """Raise the recorded refusals of CreateMicrovmShellAuthToken."""
    names = {name_of(arn) for arn in ingress}
    if Ingress.SHELL.value not in names:
        raise ValidationError(SHELL_MISSING)
    if Ingress.ALL.value in names:
        raise ValidationError(SHELL_WITH_ALL)
