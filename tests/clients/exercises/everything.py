"""All exercises: importing this registers them."""

from tests.clients.exercises import images, microvms, tags, versions

MODULES = (images, microvms, tags, versions)
