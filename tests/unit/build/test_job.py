"""The job as the program inside the builder reads it."""

import json
import re
import resource
from pathlib import Path

from microvmd.build import inside, job
from microvmd.build.job import Job, Mount


def test_the_program_inside_finds_every_member() -> None:
    work = Job(
        archive_size=5,
        lines={3: "FROM a"},
        names={"a": "0" * 64},
        bases=("/build/bases/0",),
        pull="never",
        timestamp=1,
        uuid="u",
        mounts=(Mount("/dev/vdc", "/build/store", "ext4", "rw"),),
    )
    read = json.loads(work.to_json())
    assert read["lines"] == {"3": "FROM a"}
    assert read["mounts"][0]["kind"] == "ext4"
    source = Path(inside.__file__).read_text()
    for member in read:
        assert re.search(rf"""\[["']{member}["']\]""", source)


def test_both_sides_agree_on_numbers() -> None:
    assert (
        job.EXIT_FAILED,
        job.EXIT_FULL,
        job.EXIT_UNPACK,
        job.EXIT_TOO_LARGE,
        job.RESULT_BYTES,
    ) == (
        inside.EXIT_FAILED,
        inside.EXIT_FULL,
        inside.EXIT_UNPACK,
        inside.EXIT_TOO_LARGE,
        inside.RESULT_BYTES,
    )


def test_limits_stay_within_the_process_own() -> None:
    for limit in job.ulimits():
        name, _, values = limit.partition("=")
        number = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}[name]
        hard = resource.getrlimit(number)[1]
        soft, own_hard = map(int, values.split(":"))
        assert soft == own_hard
        assert hard == resource.RLIM_INFINITY or soft <= hard
