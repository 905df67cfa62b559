#!/bin/bash
# Fetches Debian's newest 6.12 cloud kernel into ASSETS/kernel/<release>/{vmlinuz,config,modules/},
# the layout that src/microvmd/node/kernel.py reads. Does nothing if it is there already.
#
#   fetch-kernel.sh ASSETS [PACKAGE.deb]
#
# With a package file nothing is downloaded. Needs apt-get (with up-to-date lists) and dpkg-deb.
set -euo pipefail

# The newest versioned 6.12 cloud image that apt knows. The meta package may point to 6.1, which
# lacks vmgenid and has other modules.
newest_package() {
    apt-cache pkgnames linux-image-6.12. |
        grep -E "^linux-image-6\.12\.[0-9]+\+deb[0-9]+-cloud-$(dpkg --print-architecture)$" |
        sort -V | tail -n 1
}

if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: $0 ASSETS [PACKAGE.deb]" >&2
    exit 2
fi
target=$1/kernel
deb=${2:-}
if [[ -z $deb ]]; then
    package=$(newest_package) || true
    if [[ -z $package ]]; then
        echo "apt knows no 6.12 cloud kernel: are the release's own or its backports' lists there?" >&2
        exit 1
    fi
    if [[ -e $target/${package#linux-image-}/vmlinuz ]]; then
        exit 0
    fi
fi

mkdir -p "$target"
# Beside the target, so that the last step is a rename.
scratch=$(mktemp -d "$target/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
if [[ -z $deb ]]; then
    # The sandbox user of apt may not write here, which it would only warn about.
    (cd "$scratch" && apt-get download -q -o APT::Sandbox::User=root "$package")
    deb=$(compgen -G "$scratch/*.deb")
fi
dpkg-deb -x "$deb" "$scratch/root"
release=$(basename "$scratch"/root/boot/vmlinuz-*)
release=${release#vmlinuz-}
modules=$scratch/root/usr/lib/modules/$release
[[ -d $modules ]] || modules=$scratch/root/lib/modules/$release
mkdir -m 0755 "$scratch/out"
mv "$scratch/root/boot/vmlinuz-$release" "$scratch/out/vmlinuz"
mv "$scratch/root/boot/config-$release" "$scratch/out/config"
mv "$modules" "$scratch/out/modules"
# Another run may have been faster: its kernel is the same.
if ! mv -T "$scratch/out" "$target/$release" && [[ ! -e $target/$release/vmlinuz ]]; then
    exit 1
fi
