"""No core dumps of processes that hold secrets: keys, tokens, plain memory of guests."""

import ctypes
import os
import resource

PR_SET_DUMPABLE = 4


def leave_none() -> None:
    """Of this process, and no core files of those that it starts.

    The limit is inherited, but a kernel that pipes cores to a program does not look at it; being
    dumpable is what it looks at, and that begins anew with each program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl PR_SET_DUMPABLE: {os.strerror(code)}")
