#!/bin/bash
# Builds the guest agent and puts it at OUTDIR/microvmd-agent.
set -euo pipefail

if [[ $# -ne 1 ]]; then
    echo "usage: $0 OUTDIR" >&2
    exit 2
fi
exec "$(dirname "$0")/../scripts/build-native.sh" guest microvmd-agent "$1"
