"""From a code artifact to a bootable root file system.

Order of a build: :mod:`source` fetches and checks the zip, :mod:`dockerfile` finds what it is
based on, :mod:`bases` and :mod:`toolchain` provide base images and the builder's own root,
:mod:`builder` runs the Dockerfile in isolation and returns an erofs image with its configuration.
"""
