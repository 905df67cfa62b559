"""All handlers of the API, on the objects of the control plane."""

from microvmd.api.connectors import ConnectorHandlers
from microvmd.api.images import ImageHandlers
from microvmd.api.microvms import EndpointName, MicrovmHandlers
from microvmd.api.runtimes import RuntimeHandlers
from microvmd.api.tags import TagHandlers
from microvmd.api.tokens import TokenHandlers
from microvmd.control.connectors import Connectors
from microvmd.control.images import Images
from microvmd.control.managed import ManagedImages
from microvmd.control.microvms import MicroVms
from microvmd.control.tokens import TokenIssuer


def control_handlers(
    images: Images,
    microvms: MicroVms,
    issuer: TokenIssuer,
    *,
    connectors: Connectors,
    managed: ManagedImages,
    endpoint_name: EndpointName,
) -> list[object]:
    """What ``create_app`` needs: together they have a method for every operation."""
    return [
        ImageHandlers(images, managed),
        MicrovmHandlers(microvms, endpoint_name),
        TagHandlers(images, connectors),
        TokenHandlers(microvms, issuer),
        ConnectorHandlers(connectors),
        RuntimeHandlers(),
    ]
