"""Remembers every tick it was asked in; goes in circles."""

seen = []


def move(view):
    seen.append(view["tick"])
    return ("north", "east", "south", "west")[len(seen) // 4 % 4]
