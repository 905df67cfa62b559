#!/bin/bash
# Builds a crate of this checkout with Debian's Rust and puts its program, stripped, at OUTDIR/PROGRAM.
# Needs the packages cargo, rustc, librust-libc-dev, libc6-dev, gcc and binutils.
set -euo pipefail

if [[ $# -ne 3 ]]; then
    echo "usage: $0 CRATE PROGRAM OUTDIR" >&2
    exit 2
fi
program=$2
mkdir -p "$3"
outdir=$(cd "$3" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../$1"

# Debian's toolchain by its full path: another cargo in PATH may need a registry.
export RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
/usr/bin/cargo build --release --offline --quiet
# Written beside and renamed: a running setup never sees half a binary.
strip -s -o "$outdir/.$program.$$" "$CARGO_TARGET_DIR/release/$program"
mv -f "$outdir/.$program.$$" "$outdir/$program"
