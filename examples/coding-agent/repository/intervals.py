"""Merges intervals of numbers."""


def merge(intervals):
    """The same numbers, as few intervals as possible, in order."""
    merged = []
    for begin, end in sorted(intervals):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged
