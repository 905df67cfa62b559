# What comes from Debian: the backports suite where the release is too old, and packages.
# Sourced by setup.sh.
# shellcheck shell=bash

readonly backports_list=/etc/apt/sources.list.d/microvmd-backports.sources
readonly oldest_qemu=1:10.0
readonly kernel_series=6.12
export DEBIAN_FRONTEND=noninteractive

readonly packages=(
    # machines
    qemu-system-x86 qemu-utils
    # network and edge
    haproxy nftables iproute2 libnss-myhostname
    # disks and base images
    erofs-utils e2fsprogs mmdebstrap kmod xz-utils zip
    # guest agent and jailer
    rustc cargo librust-libc-dev libc6-dev gcc binutils
    # the service, its clients and its tests
    ca-certificates curl git procps python3 python3-venv
)

# The browser that tests/browser drives, and letters for it to show.
readonly browser_packages=(chromium fonts-dejavu-core)

qemu_offered() {
    local newest
    newest=$(apt-cache madison qemu-system-x86 | awk -F '|' '{gsub(/ /, "", $2); print $2}' |
        sort --version-sort | tail -n 1)
    [[ -n $newest ]] && dpkg --compare-versions "$newest" ge "$oldest_qemu"
}

kernel_offered() {
    apt-cache pkgnames "linux-image-$kernel_series." | grep -- '-cloud-amd64$' > /dev/null
}

installed_version() {
    dpkg-query --showformat '${db:Status-Status} ${Version}' --show "$1" 2> /dev/null |
        awk '$1 == "installed" {print $2}'
}

qemu_new_enough() {
    local version
    version=$(installed_version qemu-system-x86)
    [[ -n $version ]] && dpkg --compare-versions "$version" ge "$oldest_qemu"
}

# The mirror of the release itself, from the machine's own sources: "URI<TAB>signed-by" of the first
# enabled entry of suite $1 with component main, in either of apt's two formats.
own_mirror() {
    local suite=$1
    find /etc/apt/sources.list.d -name '*.sources' -exec cat {} \; -exec echo \; 2> /dev/null |
        awk -v suite="$suite" '
            function flush() {
                if (field["types"] ~ /(^| )deb( |$)/ && (" " field["suites"] " ") ~ (" " suite " ") &&
                    (" " field["components"] " ") ~ / main / && field["enabled"] !~ /^no/) {
                    split(field["uris"], uri, " ")
                    print uri[1] "\t" field["signed-by"]
                    exit
                }
                delete field
                name = ""
            }
            /^#/ {next}
            /^[ \t]*$/ {flush(); next}
            /^[ \t]/ {field[name] = field[name] " " $0; next}
            {
                name = tolower(substr($0, 1, index($0, ":") - 1))
                field[name] = substr($0, index($0, ":") + 1)
                gsub(/^[ \t]+|[ \t]+$/, "", field[name])
            }
            END {flush()}'
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2> /dev/null || true; } |
        awk -v suite="$suite" '
            $1 == "deb" {
                signed = ""
                line = $0
                if (match(line, /\[[^]]*\]/)) {
                    options = substr(line, RSTART + 1, RLENGTH - 2)
                    line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
                    if (match(options, /signed-by=[^ ]+/)) {
                        signed = substr(options, RSTART + 10, RLENGTH - 10)
                    }
                }
                count = split(line, word, " ")
                main = 0
                for (i = 4; i <= count; i++) if (word[i] == "main") main = 1
                if (word[3] == suite && main) {print word[2] "\t" signed; exit}
            }'
}

sources_inputs() {
    cat /etc/os-release
}

# Asking apt takes a second or two: not when what the sources are for is there already.
sources_present() {
    { qemu_new_enough && kernel_present; } || sources_suffice
}

sources_suffice() {
    qemu_offered && kernel_offered
}

add_sources() {
    # shellcheck disable=SC1091
    source /etc/os-release
    apt-get update
    if sources_suffice; then
        echo "the machine's own sources offer QEMU and a kernel that are new enough"
        return
    fi
    local uri signed
    IFS=$'\t' read -r uri signed < <(own_mirror "$VERSION_CODENAME" | head -n 1) || true
    if [[ -z ${uri:-} ]]; then
        echo "no entry for $VERSION_CODENAME main in /etc/apt/sources.list or /etc/apt/sources.list.d"
        return 1
    fi
    {
        echo "# Written by microvmd's ./run setup: QEMU ${oldest_qemu#*:} or newer, Linux $kernel_series."
        echo "Types: deb"
        echo "URIs: $uri"
        echo "Suites: $VERSION_CODENAME-backports"
        echo "Components: main"
        # A path; a key written out in the entry itself is among apt's trusted keys as well.
        [[ ${signed:-} != /* ]] || echo "Signed-By: $signed"
    } > "$backports_list"
    cat "$backports_list"
    apt-get update
}

packages_inputs() {
    printf '%s\n' "${packages[@]}" "$oldest_qemu"
}

# Those of "$@" that are not installed.
missing_of() {
    local present
    present=" $(dpkg-query --showformat '${db:Status-Status}:${Package} ' --show "$@" 2> /dev/null || true)"
    local package
    for package in "$@"; do
        [[ $present == *" installed:$package "* ]] || echo "$package"
    done
}

missing_packages() {
    missing_of "${packages[@]}"
}

packages_present() {
    [[ -z $(missing_packages) ]] && qemu_new_enough
}

install_packages() {
    # shellcheck disable=SC1091
    source /etc/os-release
    local missing qemu=() had_haproxy
    mapfile -t missing < <(missing_packages | grep --invert-match '^qemu-' || true)
    had_haproxy=$(installed_version haproxy)
    if [[ ${#missing[@]} -gt 0 ]]; then
        apt-get install --yes --no-install-recommends "${missing[@]}"
    fi
    if ! qemu_new_enough; then
        qemu=(qemu-system-x86 qemu-utils)
        if ! dpkg --compare-versions "$(apt-cache policy qemu-system-x86 | awk '$1 == "Candidate:" {print $2}')" ge "$oldest_qemu"; then
            qemu+=(--target-release "$VERSION_CODENAME-backports")
        fi
        apt-get install --yes --no-install-recommends "${qemu[@]}"
    fi
    if [[ -z $had_haproxy && -d /run/systemd/system ]]; then
        # The edge runs an HAProxy of its own; Debian's service would stand beside it unused.
        systemctl disable --now haproxy.service
    fi
}

browser_inputs() {
    printf '%s\n' "${browser_packages[@]}"
}

browser_present() {
    [[ -z $(missing_of "${browser_packages[@]}") ]]
}

install_browser() {
    apt-get install --yes --no-install-recommends "${browser_packages[@]}"
}
