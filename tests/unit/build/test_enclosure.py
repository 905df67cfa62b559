"""The command line into namespaces; what it isolates is shown in tests/vm."""

import json
import os
import sys

from microvmd.build.enclosure import Bind, Enclosure


def test_the_command_line_carries_everything() -> None:
    enclosure = Enclosure(
        "/root", (Bind("/a", "/b", writable=True),), "nameserver ::1\n", "net", ("/g",)
    )
    python, *options, job = enclosure.argv(["/usr/bin/env", "-i"])
    assert python == sys.executable
    # -I: nothing of the caller's environment or folder may lead the interpreter elsewhere.
    assert options == ["-I", "-m", "microvmd.build.enclosure"]
    read = json.loads(job)
    assert read["parent"] == os.getpid()
    assert read["command"] == ["/usr/bin/env", "-i"]
    assert Bind(**read["enclosure"].pop("binds")[0]) == enclosure.binds[0]
    groups = tuple(read["enclosure"].pop("groups"))
    assert Enclosure(binds=enclosure.binds, groups=groups, **read["enclosure"]) == enclosure
