"""What the guest of a MicroVM or of a build learns of itself at the metadata address.

A MicroVM has its execution role. The machines of a build have the build role, because hooks of a
build run with it on AWS; whatever an application keeps of it goes into the snapshot, so those
credentials are given only when they are asked for and last as short as STS allows.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from microvmd.messages.node import BuildVersion, MicrovmSpec
from microvmd.model.identifiers import ImageArn
from microvmd.node.metadata import Instance
from microvmd.node.network import Network
from microvmd.node.roles import SHORTEST, Roles, RoleSession


@contextmanager
def microvm_present(
    network: Network, roles: Roles, spec: MicrovmSpec
) -> Iterator[RoleSession | None]:
    """Let a MicroVM know itself; its role's credentials are fetched beside whatever comes next."""
    with ExitStack() as stack:
        role = None
        if spec.execution_role_arn is not None:
            role = stack.enter_context(roles.session(spec.execution_role_arn, spec.microvm_id))
        network.instance = Instance(spec.microvm_id, _region(spec.image_arn), role)
        yield role


@contextmanager
def build_present(network: Network, roles: Roles, command: BuildVersion) -> Iterator[None]:
    """Let a machine of a build know itself."""
    name = f"build-{command.build_id}"
    with roles.session(command.config.build_role_arn, name, lifetime=SHORTEST, lazily=True) as role:
        network.instance = Instance(name, _region(command.image_arn), role)
        yield


def _region(image_arn: str) -> str:
    return ImageArn.parse(image_arn).region
