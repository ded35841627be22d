"""How often the canary's judge is right, how soon, and at what price: simulated rollouts beside other rules.

Example: python benchmarks/judge.py --runs 200      prints Markdown tables
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from scipy.stats import betabinom, geom, mannwhitneyu

from modelkeep.evaluation import sequential
from modelkeep.rollout import judge
from modelkeep.rollout.planning import Rules

RATE, MINUTE, DAY = 0.05, 60, 86_400
RULES = Rules(longest=4 * 3600)
SLOW = Rules(longest=10 * DAY)
LONG = Rules(longest=10 * DAY, min_step=6 * 3600)
FIXED_LOOKS = (
    6  # how long rules without evidence stay at a step: 24 minutes in all, as long as ours
)
PATIENCE = 5  # failed checks that Flagger's rule forgives


def steady(factor: float) -> Callable:
    """A canary that is bad `factor` times as often, throughout."""
    return lambda t: (RATE, RATE * factor)


def moving(course: Callable[[float], float], factor: float = 1) -> Callable:
    """A champion's rate that moves in time, the canary's in step with it."""
    return lambda t: (course(t), course(t) * factor)


def to_double(t: float) -> float:
    """Twice the rate after twenty minutes."""
    return RATE * (1 + min(t / 1200, 1))


def to_half(t: float) -> float:
    """Half the rate after twenty minutes."""
    return RATE * (1 - min(t / 1200, 1) / 2)


def swing(t: float) -> float:
    """From 2 to 8 % and back each day."""
    return RATE * (1 + 0.6 * math.sin(2 * math.pi * t / DAY))


class World:
    """Independent answers, one an entity: Poisson rows by look, split at random."""

    def __init__(self, rates: Callable, a_second: Callable | float = 100.0):
        self.rates = rates
        self.speed = a_second if callable(a_second) else lambda t: a_second

    def begin(self, runs: int) -> None:
        """Forget what was before."""

    def keep(self, going: np.ndarray) -> None:
        """Go on with these runs only."""

    def draw(self, t: float, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return what is counted in the minute that ends at `t`."""
        p_a, p_b = self.rates(t)
        rows = self.speed(t) * MINUTE
        n_a, n_b = rng.poisson(rows * (1 - share)), rng.poisson(rows * share)
        return np.stack([n_a, rng.binomial(n_a, p_a), n_b, rng.binomial(n_b, p_b)], axis=-1)


class Late(World):
    """Labels that come half an hour later: each cohort is counted whole, with the split that it had."""

    delay = 30

    def begin(self, runs: int) -> None:
        self.waiting = deque([np.zeros((runs, 4), int)] * self.delay)

    def keep(self, going: np.ndarray) -> None:
        self.waiting = deque(each[going] for each in self.waiting)

    def draw(self, t: float, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.waiting.append(super().draw(t, share, rng))
        return self.waiting.popleft()


@cache
def visits(p: float, correlation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return requests, bad ones and probability of each kind of visit."""
    sizes, total = np.arange(1, 13), 1 / correlation - 1
    k, x = np.array([(k, x) for k in sizes for x in range(k + 1)]).T
    weight = geom.pmf(sizes, 0.2)
    chance = betabinom.pmf(x, k, p * total, (1 - p) * total) * (weight / weight.sum())[k - 1]
    return k, x, chance / chance.sum()


class Clustered(World):
    """Entities with 1 to 12 requests a visit, beta-binomial (correlation .3); counted by request, or by entity's first."""

    def __init__(self, factor: float, by_entity: bool, correlation: float = 0.3):
        super().__init__(steady(factor))
        self.by_entity, self.correlation = by_entity, correlation

    def draw(self, t: float, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.by_entity:
            counts = World(self.rates, 20.0).draw(t, share, rng)
            return counts
        sides = []
        for p, part in zip(self.rates(t), (1 - share, share)):
            k, x, chance = visits(p, self.correlation)
            kinds = rng.multinomial(rng.poisson(20 * MINUTE * part), chance)
            sides += [kinds @ k, kinds @ x]
        return np.stack(sides, axis=-1)


class Split(World):
    """The same visits, each request assigned by itself: what a server does without an entity column."""

    def draw(self, t: float, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        k, x, chance = visits(RATE, 0.3)
        kinds = rng.multinomial(rng.poisson(20 * MINUTE, len(share)), chance)
        good, bad = kinds @ (k - x), kinds @ x
        good_b, bad_b = rng.binomial(good, share), rng.binomial(bad, share)
        good_a, bad_a = good - good_b, bad - bad_b
        return np.stack([good_a + bad_a, bad_a, good_b + bad_b, bad_b], axis=-1)


class Returning(World):
    """Users who come back every ten minutes; a tenth of them has half of its answers bad, the rest none.

    `once` counts a user's first answer of all; otherwise the first in each look counts.
    """

    come = 0.1

    def __init__(self, users: int, once: bool):
        super().__init__(steady(1))
        self.users, self.once = users, once

    def begin(self, runs: int) -> None:
        kinds = np.array([0.1, 0.9])
        self.champion = np.broadcast_to((self.users * kinds).astype(int), (runs, 2)).copy()
        self.here, self.share = np.zeros((runs, 2), int), np.zeros(runs)

    def keep(self, going: np.ndarray) -> None:
        for name in ("champion", "here", "share"):
            setattr(self, name, getattr(self, name)[going])

    def draw(self, t: float, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        grow = (share - self.share) / (1 - self.share)  # sticky: the canary keeps whom it has
        moved = rng.binomial(self.champion, grow[:, None])
        self.champion, self.here, self.share = self.champion - moved, self.here + moved, share
        came_a, came_b = rng.binomial(self.champion, self.come), rng.binomial(self.here, self.come)
        if self.once:
            self.champion, self.here = self.champion - came_a, self.here - came_b
        bad_a, bad_b = (rng.binomial(came[:, 0], 0.5) for came in (came_a, came_b))
        return np.stack([came_a.sum(1), bad_a, came_b.sum(1), bad_b], axis=-1)


class Rule:
    """A rule that keeps arrays with one row a run; `look` says who goes up and who goes back."""

    def __init__(self, rules: Rules):
        self.rules = rules

    def keep(self, going: np.ndarray) -> None:
        """Go on with these runs only."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[going])


class Ours(Rule):
    """The canary's judge for one metric: one row a run where `canary` has one a metric."""

    known = RATE  # the champion's rate, from its log

    def begin(self, runs: int) -> None:
        """Forget what was before."""
        self.found = sequential.begin(np.full(runs, self.known))

    def keep(self, going: np.ndarray) -> None:
        """Go on with these runs only."""
        self.found = sequential.Evidence(**{k: v[going] for k, v in vars(self.found).items()})

    def look(self, counts: np.ndarray, step: np.ndarray, stayed: np.ndarray) -> tuple:
        """Weigh one look of each run."""
        margin, enough = np.array(self.rules.margins)[step], math.log(1 / self.rules.alpha)
        found = sequential.weigh(self.found, counts, margin, self.rules.tolerated_error_rate)
        worse = sequential.log_e_worse(found)
        back = worse >= enough
        up = (worse < math.log(judge.DOUBT)) & (sequential.log_e_noninferior(found) >= enough)
        up &= (stayed * self.rules.interval >= self.rules.min_step) & (
            counts[:, 0] + counts[:, 2] > 0
        )
        self.found = replace(found, log_noninferior=np.where(up[:, None], 0, found.log_noninferior))
        return up, back


class Unprepared(Ours):
    """The same without the champion's rate: the first look only teaches it."""

    known = np.nan


class Flagger(Rule):
    """A least success rate in each minute: one step up a check that passes, back after five that do not."""

    def begin(self, runs: int) -> None:
        """Forget what was before."""
        self.failed = np.zeros(runs, int)

    def look(self, counts: np.ndarray, step: np.ndarray, stayed: np.ndarray) -> tuple:
        """Check the last minute."""
        bad = counts[:, 3] > 1.2 * RATE * counts[:, 2]
        self.failed += bad
        return ~bad, self.failed >= PATIENCE


class Pooled(Rule):
    """A two-sample z-test at 5 % on all counts of the step at each look; six minutes a step."""

    def begin(self, runs: int) -> None:
        """Forget what was before."""
        self.sums = np.zeros((runs, 4))

    def look(self, counts: np.ndarray, step: np.ndarray, stayed: np.ndarray) -> tuple:
        """Test the step so far."""
        self.sums = np.where((stayed == 1)[:, None], 0, self.sums) + counts
        n_a, x_a, n_b, x_b = self.sums.T
        p = (x_a + x_b) / (n_a + n_b)
        spread = np.sqrt(np.maximum(p * (1 - p) * (1 / n_a + 1 / np.maximum(n_b, 1)), 1e-12))
        back = (x_b / np.maximum(n_b, 1) - x_a / n_a) / spread > 1.645
        return ~back & (stayed >= FIXED_LOOKS), back


class MannWhitney(Rule):
    """A Mann-Whitney test at 5 % on the rates by minute of the step, from its fourth minute on; six minutes a step."""

    def begin(self, runs: int) -> None:
        """Forget what was before."""
        self.rates = np.full((runs, FIXED_LOOKS, 2), np.nan)

    def look(self, counts: np.ndarray, step: np.ndarray, stayed: np.ndarray) -> tuple:
        """Test the minutes of the step so far."""
        n_a, x_a, n_b, x_b = counts.T
        rates = np.stack([x_a / n_a, x_b / np.maximum(n_b, 1)], axis=-1)
        self.rates[np.arange(len(step)), stayed - 1] = rates
        back = np.zeros(len(step), bool)
        for n in range(4, FIXED_LOOKS + 1):
            at = np.flatnonzero(stayed == n)
            if len(at):
                a, b = self.rates[at, :n, 0], self.rates[at, :n, 1]
                test = mannwhitneyu(b, a, axis=1, method="asymptotic")
                back[at] = (test.pvalue < 0.05) & (test.statistic > n * n / 2)
        return ~back & (stayed >= FIXED_LOOKS), back


def rollouts(rule: Rule, world: World, runs: int, seed: int) -> dict[str, np.ndarray]:
    """Simulate runs: how each ended (1 promoted, -1 rolled back, 0 undecided), when, and what it exposed."""
    rng, rules = np.random.default_rng(seed), rule.rules
    end, minutes, exposed, left = (np.zeros(runs, int) for _ in range(4))
    at, step, stayed = np.arange(runs), np.zeros(runs, int), np.zeros(runs, int)
    rule.begin(runs)
    world.begin(runs)
    shares = np.array([*rules.shares, 1.0])
    for look in range(1, int(rules.longest / rules.interval) + 1):
        counts = world.draw(look * rules.interval, shares[step], rng)
        stayed += 1
        exposed[at] += counts[:, 2]
        minutes[at] = look * rules.interval / MINUTE
        up, back = rule.look(counts, step, stayed)
        step, stayed = step + up, np.where(up, 0, stayed)
        left[at] = step
        done = step == len(rules.shares)
        end[at[done]], end[at[back]] = 1, -1
        going = ~(done | back)
        at, step, stayed = at[going], step[going], stayed[going]
        rule.keep(going)
        world.keep(going)
        if not len(at):
            break
    return {"end": end, "minutes": minutes, "exposed": exposed, "left": left}


CELLS = {
    "equal": (World(steady(1)), RULES),
    "10 % worse": (World(steady(1.1)), RULES),
    "20 % worse": (World(steady(1.2)), RULES),
    "2 times worse": (World(steady(2)), RULES),
    "20 % better": (World(steady(0.8)), RULES),
    "champion bad in 5 % growing to 10 %, equal": (World(moving(to_double)), RULES),
    "5 % growing to 10 %, 10 % worse": (World(moving(to_double, 1.1)), RULES),
    "5 % growing to 10 %, 20 % worse": (World(moving(to_double, 1.2)), RULES),
    "5 % falling to 2.5 %, equal": (World(moving(to_half)), RULES),
    "5 % falling to 2.5 %, 10 % worse": (World(moving(to_half, 1.1)), RULES),
    "5 % falling to 2.5 %, 20 % worse": (World(moving(to_half, 1.2)), RULES),
    "labels after 30 minutes, equal": (Late(steady(1)), RULES),
    "labels after 30 minutes, 20 % worse": (Late(steady(1.2)), RULES),
    "no traffic in 10 of 30 minutes, equal": (
        World(steady(1), lambda t: 100.0 * (t % 1800 < 1200)),
        RULES,
    ),
    "no traffic in 10 of 30 minutes, 20 % worse": (
        World(steady(1.2), lambda t: 100.0 * (t % 1800 < 1200)),
        RULES,
    ),
    "1 request a second, equal": (World(steady(1), 1.0), SLOW),
    "1 request a second, 20 % worse": (World(steady(1.2), 1.0), SLOW),
    "1 a second, 2 to 8 % by day, equal": (
        World(moving(swing), lambda t: 1 + 0.6 * math.cos(2 * math.pi * t / DAY)),
        SLOW,
    ),
    "1 a second, 2 to 8 % by day, 20 % worse": (
        World(moving(swing, 1.2), lambda t: 1 + 0.6 * math.cos(2 * math.pi * t / DAY)),
        SLOW,
    ),
    "2 to 8 % by day, six hours a step, equal": (World(moving(swing)), LONG),
    "2 to 8 % by day, six hours a step, 10 % worse": (World(moving(swing, 1.1)), LONG),
}
ENTITIES = {
    "4 requests a visit, counted by request": Clustered(1, by_entity=False),
    "the same, each request assigned by itself": Split(steady(1)),
    "the same, one outcome an entity": Clustered(1, by_entity=True),
    "20 % worse, one outcome an entity": Clustered(1.2, by_entity=True),
    "20,000 users who come back, one outcome a user in each look": Returning(20_000, once=False),
    "the same, one outcome a user in all": Returning(20_000, once=True),
    "1,000,000 users, one outcome a user in all": Returning(1_000_000, once=True),
}
PEERS = {
    "this judge": Ours,
    "Flagger: success of 94 % in each minute": Flagger,
    "Mann-Whitney on rates by minute": MannWhitney,
    "z-test at each look": Pooled,
}
PEER_CELLS = ("equal", "10 % worse", "20 % worse", "2 times worse")
PEER_DRIFT = ("champion bad in 5 % growing to 10 %, equal", "5 % falling to 2.5 %, 20 % worse")


def row(name: str, found: dict[str, np.ndarray]) -> str:
    """One line of a table."""
    promoted, back = found["end"] == 1, found["end"] == -1
    when = found["minutes"]
    times = [f"{np.median(when[part]):,.0f}" if part.any() else "–" for part in (promoted, back)]
    return (
        f"| {name} | {promoted.mean():.2%} | {back.mean():.2%} | {(found['end'] == 0).mean():.2%} "
        f"| {times[0]} | {times[1]} | {np.median(found['exposed']):,.0f} |"
    )


HEAD = "| {} | promoted | rolled back | undecided | minutes to 100 % (median) | minutes to back | canary rows (median) |\n|---|---|---|---|---|---|---|"


def table(runs: int, seed: int) -> None:
    """Print what the judge does in each world."""
    print(HEAD.format(f"this judge, {runs:,} runs a row"))
    for name, (world, rules) in CELLS.items():
        print(row(name, rollouts(Ours(rules), world, runs, seed)), flush=True)
    for name in ("equal", "20 % worse"):
        found = rollouts(Unprepared(RULES), CELLS[name][0], runs, seed)
        print(row(f"{name}, the champion's rate unknown before", found), flush=True)


def entities(runs: int, seed: int) -> None:
    """Print what counting by request or by entity does; the canary is equal unless said."""
    print(HEAD.format(f"requests of one entity are alike, {runs:,} runs a row"))
    for name, world in ENTITIES.items():
        print(row(name, rollouts(Ours(RULES), world, runs, seed)), flush=True)


def peers(runs: int, seed: int) -> None:
    """Print what other rules do in the same worlds."""
    print(HEAD.format(f"rule, world; {runs:,} runs a row"))
    for name, rule in PEERS.items():
        for cell in (*PEER_CELLS, *PEER_DRIFT):
            found = rollouts(rule(RULES), CELLS[cell][0], runs, seed)
            print(row(f"{name}; {cell}", found), flush=True)
        found = rollouts(
            rule(RULES), ENTITIES["4 requests a visit, counted by request"], runs, seed
        )
        print(row(f"{name}; equal, 4 requests a visit", found), flush=True)


def breaker(runs: int, seed: int) -> None:
    """Print how often the circuit breaker opens on an equal canary: 40,000 requests, by request and by entity."""
    print(
        "| false openings of the circuit breaker | last 50 requests | of 50 entities |\n|---|---|---|"
    )
    for rate, correlation in ((0.05, 0.3), (0.05, 0.6), (0.05, 0.9), (0.1, 0.3)):
        rng, total, opened = np.random.default_rng(seed), 1 / correlation - 1, np.zeros(2)
        k, _, chance = visits(rate, correlation)
        sizes = np.bincount(k, chance)
        for _ in range(runs):
            rows = rng.choice(len(sizes), p=sizes, size=10_000)
            prone = rng.beta(rate * total, (1 - rate) * total, size=len(rows))
            for i, each in enumerate((np.repeat(prone, rows), prone)):
                bad = np.concatenate([[0], np.cumsum(rng.random(len(each)) < each)])
                worst = (bad[judge.BREAKER_ROWS :] - bad[: -judge.BREAKER_ROWS]).max()
                opened[i] += judge.breaks((1000, int(1000 * rate), judge.BREAKER_ROWS, worst))
        shown = " | ".join(f"{part:.2%}" for part in opened / runs)
        print(f"| {rate:.0%} bad, correlation {correlation:g} ({runs:,} runs) | {shown} |")


def price(runs: int, seed: int) -> None:
    """Print the CPU time of one look (other programs may run beside it): three metrics, after all restarts."""
    rules = Rules(metrics=("error", "latency", "quality"), longest=math.inf, min_step=math.inf)
    state, rng, took = (
        judge.start(rules, dict.fromkeys(rules.metrics, RATE)),
        np.random.default_rng(seed),
        [],
    )
    for i in range(1, 1001):
        n_a, n_b = 5940, 60
        counts = {
            name: [(n_a, int(rng.binomial(n_a, RATE)), n_b, int(rng.binomial(n_b, RATE)))]
            for name in rules.metrics
        }
        began = time.process_time()
        look = judge.Analysis(60.0 * i, counts, (n_a, n_b))
        state, verdict = judge.judge(rules, state, look)
        judge.line(look, verdict)
        took.append(time.process_time() - began)
    late = np.array(took[500:]) * 1000
    print("| one look of three metrics, with its line of record | CPU ms |\n|---|---|")
    print(f"| median, 99 % | {np.median(late):.2f}, {np.quantile(late, 0.99):.2f} |")


def main() -> None:
    """Print the tables."""
    parts = {
        "table": table,
        "entities": entities,
        "peers": peers,
        "breaker": breaker,
        "price": price,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="simulated rollouts a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=parts, nargs="*", default=list(parts))
    given = parser.parse_args()
    for name in given.only:
        began = time.perf_counter()
        parts[name](given.runs, given.seed)
        print(f"\n({time.perf_counter() - began:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
