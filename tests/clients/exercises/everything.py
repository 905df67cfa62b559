"""All exercises: importing this registers them."""

from tests.clients.exercises import connectors, images, microvms, tags, versions

MODULES = (connectors, images, microvms, tags, versions)
