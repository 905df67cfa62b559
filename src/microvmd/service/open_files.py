"""How many files and connections a process of the service may have open."""

import resource

MOST = 1 << 20


def take_all() -> None:
    """As many as the machine allows this process, up to a million.

    systemd and login shells give 1024, for programs that use select(2). Requests that wait for a
    MicroVM, shells and calls are a connection each, and HAProxy lets far more of them in.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
