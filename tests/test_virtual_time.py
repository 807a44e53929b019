"""The second benchmark of freshness, on a small account: it runs the real daemon in virtual time."""

import math
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "freshness"))

import daemon


def test_the_daemon_finds_every_edit_in_virtual_time(counted):
    """Twenty contacts, fifteen minutes: each edit that counts is found, after it was made, by some visit."""
    world, bounds = daemon.world_of(contacts=20, haste=1920.0, busy=20.0, seed=7)
    simulated, real = daemon.run_simulation(world, bounds), daemon.run_daemon(world, bounds)
    expected = sum(world.warm_up <= moment < world.days for moment, _ in world.changes)
    assert len(real.delays) == len(simulated.delays) == expected > 0
    assert all(0 < delay < math.inf for delay in real.delays)
    assert real.visits > 0
    counted("edits found in virtual time", expected)
