"""Tries to get at the others, then never answers."""

import os


def move(view):
    for attempt in (lambda: os.kill(1, 9), lambda: open("/opt/game/world.py", "a"), os.fork):
        try:
            attempt()
        except OSError:
            pass
        else:
            return "north"
    while True:
        pass
