"""All exercises: importing this registers them."""

from tests.clients.exercises import connectors, images, microvms, runtimes, tags, versions

MODULES = (connectors, images, microvms, runtimes, tags, versions)
