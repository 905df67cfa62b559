# Python: uv by hash into .uv, then the locked packages and this project into .venv.
# Sourced by setup.sh.
# shellcheck shell=bash

# uv reads no pip configuration: hand on the machine's index and certificates.
use_machine_settings() {
    export UV_SYSTEM_CERTS=1
    export UV_PYTHON_DOWNLOADS=never
    export UV_LINK_MODE=copy
    export SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}}
    local index
    index=${PIP_INDEX_URL:-$(.uv/bin/pip config get global.index-url 2> /dev/null || true)}
    [[ -z $index ]] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    # 100 packages over a slow mirror: give each read more than uv's 30 s.
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
}

uv_inputs() {
    /usr/bin/python3 --version
    cat scripts/uv.lock.txt
}

uv_present() {
    [[ -x .uv/bin/uv ]]
}

install_uv() {
    rm -rf .uv
    /usr/bin/python3 -m venv .uv
    PIP_DISABLE_PIP_VERSION_CHECK=1 .uv/bin/pip install --require-hashes --no-deps --requirement scripts/uv.lock.txt
}

# What only the tests need stays where it once was installed: who develops calls demo in between.
python_lock() {
    if [[ $tests == yes || -x .venv/bin/pytest ]]; then
        echo requirements-tests.lock
    else
        echo requirements.lock
    fi
}

python_inputs() {
    /usr/bin/python3 --version
    # An editable install holds the path of the checkout.
    pwd
    python_lock
    cat "$(python_lock)" pyproject.toml scripts/python.sh
}

python_present() {
    [[ -x .venv/bin/python && -x .venv/bin/microvmd ]]
}

install_python() {
    use_machine_settings
    # An environment of another interpreter or of a moved checkout cannot be mended, only remade.
    if ! .venv/bin/python --version > /dev/null 2>&1 || [[ $(.venv/bin/python -c 'import sys; print(sys.prefix)') != "$PWD/.venv" ]]; then
        rm -rf .venv
        .uv/bin/uv venv --python /usr/bin/python3 .venv
    fi
    export VIRTUAL_ENV=$PWD/.venv
    .uv/bin/uv pip sync --require-hashes "$(python_lock)"
    .uv/bin/uv pip install --no-deps --no-build-isolation --editable .
}
