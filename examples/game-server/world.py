"""The game itself, without clock, network or scripts: robots on a grid collect coins.

A robot says in each tick which way it goes. Who stands on a coin gets it, and a new one is laid.
"""

from dataclasses import dataclass, field
from random import SystemRandom

SIZE = 16
COINS = 8
# Not the random numbers of a snapshot, which are the same in every game.
chance = SystemRandom()
MOVES = {"north": (0, -1), "south": (0, 1), "west": (-1, 0), "east": (1, 0), "stay": (0, 0)}


@dataclass
class Robot:
    x: int
    y: int
    score: int = 0
    faults: int = 0


@dataclass
class World:
    tick: int = 0
    robots: dict[str, Robot] = field(default_factory=dict)
    coins: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self):
        self._lay_coins()

    def join(self, name):
        self.robots.setdefault(name, Robot(chance.randrange(SIZE), chance.randrange(SIZE)))

    def view(self, name):
        """What a robot's script is told: itself and all there is to see, as plain JSON."""
        robot = self.robots[name]
        return {
            "tick": self.tick,
            "size": SIZE,
            "x": robot.x,
            "y": robot.y,
            "score": robot.score,
            "coins": sorted(self.coins),
        }

    def step(self, moves):
        """One tick: `moves` has a direction by name; who has none, or no real one, stays."""
        self.tick += 1
        for name, robot in self.robots.items():
            dx, dy = MOVES.get(moves.get(name), (0, 0))
            robot.x, robot.y = (robot.x + dx) % SIZE, (robot.y + dy) % SIZE
            if (robot.x, robot.y) in self.coins:
                self.coins.remove((robot.x, robot.y))
                robot.score += 1
        self._lay_coins()

    def _lay_coins(self):
        while len(self.coins) < COINS:
            self.coins.add((chance.randrange(SIZE), chance.randrange(SIZE)))

    def state(self):
        robots = {name: vars(robot) for name, robot in self.robots.items()}
        return {"tick": self.tick, "robots": robots, "coins": sorted(self.coins)}
