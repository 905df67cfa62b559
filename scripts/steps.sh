# Steps of the set-up: numbered, timed, logged, skipped when nothing changed. Sourced by setup.sh.
# shellcheck shell=bash

step_total=$(grep --count '^ *step "' scripts/setup.sh)
step_number=0
step_worked=0
setup_log="build/log/setup-$(date +%Y%m%dT%H%M%S).log"

stop() {
    echo "setup: $*" >&2
    exit 1
}

# Seconds with one decimal since $1 (microseconds as in EPOCHREALTIME without the point).
elapsed() {
    local tenths=$(((${EPOCHREALTIME//[.,]/} - $1) / 100000))
    echo "$((tenths / 10)).$((tenths % 10)) s"
}

# The hash of the files named on standard input, by name and content.
hash_files() {
    sort | xargs --no-run-if-empty --delimiter='\n' sha256sum
}

source_files() {
    # Cargo writes its own lock file; nothing is fetched by it.
    find "$1" -type f -not -path '*/target/*' -not -path '*/.*' -not -name Cargo.lock
}

# Runs "$@" with its output in the log; on a terminal shows the time and the last line of the log.
run_logged() {
    local began=$1 label=$2
    shift 2
    "$@" >> "$setup_log" 2>&1 9>&- &
    local child=$!
    # An interrupt must not leave apt or the compiler behind.
    trap 'kill "$child" 2>/dev/null; wait "$child" 2>/dev/null; exit 130' INT TERM
    if [[ -t 1 ]]; then
        while kill -0 "$child" 2> /dev/null; do
            printf '\r\e[K%s %s  %.60s' "$label" "$(elapsed "$began")" \
                "$(tail -n 1 "$setup_log" | tr -d '\r\e')"
            read -r -t 0.3 <> <(:) || true
        done
        printf '\r\e[K'
    fi
    local status=0
    wait "$child" || status=$?
    trap - INT TERM
    return "$status"
}

# step NAME INPUTS PRESENT ACTION HINT: runs ACTION unless the inputs are those of the last success
# and PRESENT still holds.
step() {
    local name=$1 inputs=$2 present=$3 action=$4 hint=$5
    step_number=$((step_number + 1))
    local stamp="build/stamps/$step_number" digest label began
    digest=$({
        echo "$name"
        cat "${BASH_SOURCE[0]}"
        "$inputs"
    } | sha256sum)
    if [[ -f $stamp && $(< "$stamp") == "$digest" ]] && "$present"; then
        return
    fi

    label="[$step_number/$step_total] $name"
    if [[ $step_worked == 0 ]]; then
        echo "Setting up microvmd in $PWD"
        echo "The log is $setup_log"
    fi
    step_worked=1
    [[ -t 1 ]] || echo "$label ..."
    began=${EPOCHREALTIME//[.,]/}
    echo "== $label" >> "$setup_log"
    if ! run_logged "$began" "$label" "$action"; then
        {
            echo "$label failed after $(elapsed "$began"). The end of $setup_log:"
            echo
            tail -n 25 "$setup_log" | sed 's/^/    /'
            echo
            echo "What to do: $hint"
            echo "Then run ./run setup again: the steps that are done are not done twice."
        } >&2
        exit 1
    fi
    "$present" || stop "$name: the step ended well but its result is not there; see $setup_log"
    echo "$digest" > "$stamp"
    echo "$label: $(elapsed "$began")"
}

finish() {
    [[ $step_worked == 0 ]] || echo "Ready. Next: ./run demo, or ./run serve"
}
