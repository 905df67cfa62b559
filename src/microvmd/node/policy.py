"""What a node does not do although the message is well-formed: its sender may have been taken over.

Each command must agree with itself (the account of a version, its image, its log and its roles are
one) and with the operator's settings, which the node has read itself: nobody opens a network to a
guest, or asks for a machine, that the operator did not offer.
"""

from dataclasses import dataclass, field

from microvmd.messages.node import (
    AdoptMicrovm,
    BuildVersion,
    ChangeEgress,
    Command,
    LogDelivery,
    LogTarget,
    MicrovmSpec,
    ProvisionConnector,
    ResumeMicrovm,
    StartMicrovm,
    VersionKey,
)
from microvmd.model.egress import Egress, EgressMap, MappedSubnet, Reach, grant_of
from microvmd.model.names import common
from microvmd.model.size import Sizes


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """The operator's settings that bind a node."""

    region: str
    sizes: Sizes = field(default_factory=Sizes)
    networks: EgressMap = field(default_factory=EgressMap)

    def refusal(self, command: Command, account: str | None = None) -> str | None:
        """Why a command is not carried out; None when it is.

        ``account`` is that of the MicroVM on this node which the command names, if it names one.
        """
        match command:
            case StartMicrovm(spec) | ResumeMicrovm(spec) | AdoptMicrovm(spec):
                return self.refusal_of(spec)
            case BuildVersion():
                return self._build(command)
            case ProvisionConnector():
                grant = grant_of(command.connector_id, command.number)
                if any(reach.grant != grant for reach in command.egress.reaches):
                    return "the connector opens networks of another"
                return self._egress(None, command.egress)
            case ChangeEgress():
                return self._egress(account, command.egress)
        return None

    def refusal_of(self, spec: MicrovmSpec) -> str | None:
        """Why a MicroVM is not started, resumed or adopted, nor asked a key for."""
        return (
            self._place(spec.version, spec.image_arn)
            or _role(spec.version, spec.execution_role_arn)
            or _log(spec.version, spec.log, spec.delivery, spec.execution_role_arn)
            or self._egress(spec.version.account, spec.egress)
        )

    def _build(self, command: BuildVersion) -> str | None:
        config = command.config
        if config.memory_mib not in self.sizes.offered:
            return f"images of {config.memory_mib} MiB are not offered"
        if command.source is not None and not command.source.is_of(command.version):
            return "the version is built from the files of another"
        return (
            self._place(command.version, command.image_arn)
            or _role(command.version, config.build_role_arn)
            or _log(command.version, command.log, command.delivery, config.build_role_arn)
            or self._egress(command.version.account, command.egress)
        )

    def _place(self, version: VersionKey, image_arn: str) -> str | None:
        _, _, _, region, account, _, name = image_arn.split(":")
        if (region, account, name) != (self.region, version.account, version.image_name):
            return "the image's ARN is another's than its version"
        return None

    def _egress(self, account: str | None, egress: Egress) -> str | None:
        """Each network lies within one that the operator maps, for this account."""
        offered = [
            subnet
            for subnet in self.networks.subnets.values()
            if account is None or not subnet.accounts or account in subnet.accounts
        ]
        for reach in egress.reaches:
            if not any(_holds(subnet, reach) for subnet in offered):
                return f"no subnet of the settings holds the network {reach.network}"
        return None


def _holds(subnet: MappedSubnet, reach: Reach) -> bool:
    """By address, and by name where the subnet is narrowed to names."""
    if not any(reach.network.subnet_of(network) for network in subnet.networks):
        return False
    if not subnet.names:
        return True
    return bool(reach.names) and all(
        any(name in common(name, allowed) for allowed in subnet.names) for name in reach.names
    )


def _role(version: VersionKey, role_arn: str | None) -> str | None:
    if role_arn is not None and role_arn.split(":")[4] != version.account:
        return "the role is of another account"
    return None


def _log(
    version: VersionKey, log: LogTarget, delivery: LogDelivery | None, role_arn: str | None
) -> str | None:
    if log.group != f"{version.account}:/aws/lambda-microvms/{version.image_name}":
        return "the log is of another image"
    if delivery is not None and delivery.role_arn != role_arn:
        return "the log is delivered with the rights of another role"
    return None
