#!/bin/bash
# Fetches Debian's static busybox to ASSETS/busybox: the shell of images that have none. It goes
# into the initramfs (src/microvmd/node/kernel.py). Does nothing if it is there already.
# Needs apt-get (with up-to-date lists) and dpkg-deb.
set -euo pipefail

if [[ $# -ne 1 ]]; then
    echo "usage: $0 ASSETS" >&2
    exit 2
fi
if [[ -x $1/busybox ]]; then
    exit 0
fi
mkdir -p "$1"
# Beside the target, so that the last step is a rename.
scratch=$(mktemp -d "$1/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# Not installed: that would replace a busybox that the machine has. The sandbox user of apt may not
# write here, which it would only warn about.
(cd "$scratch" && apt-get download -q -o APT::Sandbox::User=root busybox-static)
dpkg-deb -x "$(compgen -G "$scratch/*.deb")" "$scratch/root"
program=$scratch/root/bin/busybox
[[ -e $program ]] || program=$scratch/root/usr/bin/busybox
mv -f "$program" "$1/busybox"
