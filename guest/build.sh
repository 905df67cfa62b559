#!/bin/bash
# Builds the guest agent with Debian's Rust and puts it, stripped, at OUTDIR/microvmd-agent.
# Needs the packages cargo, rustc, librust-libc-dev, libc6-dev, gcc and binutils.
set -euo pipefail

if [[ $# -ne 1 ]]; then
    echo "usage: $0 OUTDIR" >&2
    exit 2
fi
mkdir -p "$1"
outdir=$(cd "$1" && pwd)
cd "$(dirname "$0")"

# Debian's toolchain by its full path: another cargo in PATH may need a registry.
export RUSTC=/usr/bin/rustc CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
/usr/bin/cargo build --release --offline --quiet
# Written beside and renamed: a running setup never sees half a binary.
strip -s -o "$outdir/.microvmd-agent.$$" "$CARGO_TARGET_DIR/release/microvmd-agent"
mv -f "$outdir/.microvmd-agent.$$" "$outdir/microvmd-agent"
