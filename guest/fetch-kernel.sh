#!/bin/bash
# Fetches Debian's newest 6.12 cloud kernel into TARGET/<release>/{vmlinuz,config,modules/}, the
# layout that src/microvmd/node/kernel.py reads. Does nothing if it is there already.
#
#   fetch-kernel.sh TARGET [PACKAGE.deb]
#
# With a package file nothing is downloaded. Needs apt-get (lists up to date) and dpkg-deb.
set -euo pipefail

# The package with the highest version among the versioned 6.12 cloud images apt knows. The
# unversioned meta package may point to 6.1, which lacks vmgenid and needs other modules.
newest_package() {
    local architecture=$1
    apt-cache pkgnames linux-image-6.12. |
        grep -E "^linux-image-6\.12\.[0-9]+\+deb[0-9]+-cloud-$architecture$" |
        sort -V | tail -n 1
}

fetch_kernel() {
    local target=$1 deb=${2:-} scratch package release
    mkdir -p "$target"
    # Beside the target, so that the last step is a rename.
    scratch=$(mktemp -d "$target/.fetch.XXXXXX")
    trap 'rm -rf "$scratch"' RETURN
    if [[ -z $deb ]]; then
        package=$(newest_package "$(dpkg --print-architecture)")
        if [[ -z $package ]]; then
            echo "no 6.12 cloud kernel in apt's lists: is the release's own or backports there?" >&2
            return 1
        fi
        release=${package#linux-image-}
        if [[ -e $target/$release/vmlinuz ]]; then
            return 0
        fi
        (cd "$scratch" && apt-get download -qq "$package")
        deb=$(echo "$scratch"/*.deb)
    fi
    dpkg-deb -x "$deb" "$scratch/root"
    release=$(basename "$scratch"/root/boot/vmlinuz-* | sed 's/^vmlinuz-//')
    local modules=$scratch/root/usr/lib/modules/$release
    [[ -d $modules ]] || modules=$scratch/root/lib/modules/$release
    mkdir "$scratch/out"
    mv "$scratch/root/boot/vmlinuz-$release" "$scratch/out/vmlinuz"
    mv "$scratch/root/boot/config-$release" "$scratch/out/config"
    mv "$modules" "$scratch/out/modules"
    if ! mv -T "$scratch/out" "$target/$release" 2>/dev/null && [[ ! -e $target/$release/vmlinuz ]]; then
        echo "cannot put the kernel into $target/$release" >&2
        return 1
    fi
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    if [[ $# -lt 1 || $# -gt 2 ]]; then
        echo "usage: $0 TARGET [PACKAGE.deb]" >&2
        exit 2
    fi
    set -o errtrace
    fetch_kernel "$@"
fi
