"""Goes to the nearest coin."""


def move(view):
    def distance(coin):
        return abs(coin[0] - view["x"]) + abs(coin[1] - view["y"])

    x, y = min(view["coins"], key=distance)
    if x != view["x"]:
        return "east" if x > view["x"] else "west"
    return "south" if y > view["y"] else "north"
