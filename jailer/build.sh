#!/bin/bash
# Builds the jailer and puts it at OUTDIR/microvmd-jailer.
set -euo pipefail

if [[ $# -ne 1 ]]; then
    echo "usage: $0 OUTDIR" >&2
    exit 2
fi
exec "$(dirname "$0")/../scripts/build-native.sh" jailer microvmd-jailer "$1"
