"""How long a change waits until the mirror has it: policies compared in virtual time.

    make bench          or: python benchmarks/freshness [--contacts 10000] [--only burst] [--jobs 2] [--plot FILE]

Prints the tables of docs/freshness.md and draws its plot. Round robin in the same run is the yardstick.
"""

import argparse
import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import plot
import scenarios
import simulate
from simulate import Policy, Result

COMPARED: dict[str, Callable[[int], scenarios.World]] = {
    "freshness": scenarios.freshness,
    "burst": scenarios.burst,
    "quiet": scenarios.quiet,
    "import": scenarios.bulk_import,
}

TROUBLED: dict[str, Callable[[int], scenarios.World]] = {
    "as usual": scenarios.freshness,
    "a quarter of the changes leaves a date": partial(scenarios.freshness, dated_share=0.25),
    "all changes leave a date": partial(scenarios.freshness, dated_share=1.0),
    "changes in groups of four": scenarios.clumped,
    "rates drawn anew every 60 days": scenarios.drifting,
    "half the budget from day 12 on": partial(scenarios.budget, factor=0.5),
    "twice the budget from day 12 on": partial(scenarios.budget, factor=2.0),
    "12 hours without the source on day 12": scenarios.outage,
}


def run(make: Callable[[int], scenarios.World], contacts: int, policy: Policy) -> Result:
    """One policy in one world."""
    return simulate.Simulation(make(contacts), policy).run()


def compare(name: str, contacts: int, pool: "multiprocessing.pool.Pool") -> list[Result]:
    """All policies in one world; prints the table."""
    make = COMPARED[name]
    world = make(contacts)
    changes = sum(scenarios.WARM_UP <= moment < scenarios.DAYS for moment, _ in world.changes)
    print(f"\n### {world.name}: {world.contacts:,} contacts, {world.visits_a_day[0][1]:,.0f} visits a day,"
          f" {changes:,} changes counted\n")  # fmt: skip
    head = ["policy", "mean", "÷ round robin", "median", "p95", "oldest look, days", "visits used", "recall learned"]
    head += ["mean, campaign or import", "mean, the others"] if world.special else []
    head += ["first look, latest"] if world.arrivals else []
    _row(head)
    _row(["---"] * len(head))
    began, results = time.monotonic(), []
    for result in pool.imap(partial(run, make, contacts), simulate.POLICIES):
        results.append(result)
        row = [result.policy.name, f"{result.mean:.2f}", f"{result.mean / results[0].mean:.3f}"]
        row += [f"{result.quantile(0.5):.2f}", f"{result.quantile(0.95):.1f}", f"{result.oldest:.2f}"]
        row += [f"{result.used:.1%}", f"{result.recall:.2f}" if result.policy.recall else ""]
        if world.special:
            of_special, count = 24 * sum(result.special), len(result.special)
            others = (result.mean * len(result.delays) - of_special) / (len(result.delays) - count)
            row += [f"{of_special / count:.2f}", f"{others:.2f}"]
        if world.arrivals:
            row += [f"{24 * max(result.first_looks):.2f}"]
        _row(row)
    bound = next(result.mean for result in results if result.policy.knows == "rates")
    by_name = {result.policy.name: result.mean for result in results}
    print(f"\nOver the bound: {by_name[simulate.FROM_VISITS.name] / bound:.2f} from visits alone,"
          f" {by_name[simulate.LEARNED.name] / bound:.2f} with dates of records."
          f" {time.monotonic() - began:.0f} s.", flush=True)  # fmt: skip
    return results


def trouble(contacts: int, pool: "multiprocessing.pool.Pool") -> None:
    """What happens when the world is not as the planner takes it to be; prints the table."""
    policies = (simulate.ROUND_ROBIN, simulate.FROM_VISITS, simulate.LEARNED, simulate.KNOWN)
    print(f"\n### When things are otherwise: {contacts:,} contacts, mean delay in hours\n")
    ratios = ["learned ÷ round robin", "learned ÷ bound", "oldest look, days"]
    _row(["what", *(policy.name for policy in policies), *ratios])
    _row(["---"] * (len(policies) + 4))
    for name, make in TROUBLED.items():
        found = pool.map(partial(run, make, contacts), policies)
        means = [result.mean for result in found]
        numbers = [f"{means[2] / means[0]:.3f}", f"{means[2] / means[3]:.2f}", f"{found[2].oldest:.2f}"]
        _row([name, *(f"{mean:.2f}" for mean in means), *numbers])


def _row(cells: Sequence[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    """Print the tables and draw the plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=100_000, help="the others have a fifth, or a tenth")
    parser.add_argument("--only", choices=[*COMPARED, "trouble"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="where to draw the delays in the first scenario")
    wanted = parser.parse_args()
    print(f"{date.today()}, Python {platform.python_version()}; delays in hours")
    with multiprocessing.Pool(wanted.jobs) as pool:
        for name in COMPARED if wanted.only is None else COMPARED.keys() & {wanted.only}:
            results = compare(name, wanted.contacts if name == "freshness" else wanted.contacts // 5, pool)
            if name == "freshness" and wanted.plot:
                wanted.plot.write_text(plot.delays(results))
        if wanted.only in {None, "trouble"}:
            trouble(wanted.contacts // 10, pool)


if __name__ == "__main__":
    main()
