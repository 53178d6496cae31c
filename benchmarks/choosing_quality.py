"""The end of a search replayed on recorded pools: finalists, optimism, and the response among a mixture's surrogates.

    python -m benchmarks.choosing_quality [--pools demo demo_ties] [--seeds 30]

Each seed draws documents to search on, as many to select on, and leaves the others to judge by. First table: finalists
dropped by paired elimination, the items that it spares, and how often the winner is another than by all select items.
Second: the simulated optimism beside the real one, of which the mean over the better half of the pool is taken off: it
is the luck of a draw of items, and chooses nothing. Once it is of merges that the items had no part in, once of a
search that proposed its merges by these items. Third: scores at unmeasured mixtures, with and without the response.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from benchmarks.pools import RecordedPool, load_pool
from benchmarks.replays.proposer import ReplayProposer
from benchmarks.replays.worlds import FiniteWorld, SeenItems, list_first_merges
from benchmarks.tiny import parse_options

from aftermix.config import Objective
from aftermix.mixture.surrogates.item_response import RESPONSE, fit_item_responses
from aftermix.mixture.surrogates.surrogate import Surrogate
from aftermix.response.optimism import ChoiceRule, simulate_optimism
from aftermix.response.response_model import ResponseModel, sum_weighted
from aftermix.runs.answers.requests import SplitRequests
from aftermix.search.choosing.elimination import EliminationRule, deal_rounds
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.procedure_optimism import simulate_task
from aftermix.seeds import generator

POINTS = 100.0
MERGES = 16
SEARCHED = 20
FINALISTS = (3, 6)
SHARES = (0.15, 0.3)
"""Documents to search on, and as many to select on."""
PARTS = ("choices", "mixtures")
MOST = 3.0
"""Sum of weights that stands for a mixture without a rest of the base."""


@dataclass(frozen=True)
class ReplayedEnd:
    """Merges of one seed, measured on search and select items, and the response through them."""

    search: FiniteWorld
    select: FiniteWorld
    merges: np.ndarray
    model: ResponseModel

    @classmethod
    def draw(cls, pool: RecordedPool, share: float, seed: int) -> ReplayedEnd:
        """`MERGES` of the pool, the first of a design before random ones."""
        items = SeenItems.draw(pool, 2 * share, seed=seed)
        halves: list[dict[str, np.ndarray]] = [{}, {}]
        for name, seen in items.search.items():
            documents = np.unique(pool.tasks[name].document_N[seen])
            order = generator(seed, "choosing halves", name).permutation(documents)
            first = np.isin(pool.tasks[name].document_N[seen], order[: len(order) // 2])
            halves[0][name], halves[1][name] = seen[first], seen[~first]
        search, select = (FiniteWorld(pool, SeenItems(half, items.test)) for half in halves)
        merges = list_first_merges(pool, MERGES, seed=seed)
        return cls(search, select, np.array(merges), search.fit(merges, seed=seed))

    def search_on(self, seed: int) -> ReplayedEnd:
        """The same items with the merges of a search by response on them."""
        proposer = ReplayProposer.open(self.search, SEARCHED, seed)
        with contextlib.redirect_stderr(io.StringIO()):  # the product says where it falls back to TPE
            trials = proposer.run_all()
        fitted = proposer.fit(trials)
        assert fitted is not None
        merges = np.array([proposer.taken[trial.number] for trial in fitted.trials])
        return replace(self, merges=merges, model=fitted.model)

    def rank(self) -> np.ndarray:
        """Places of the merges from the best down, by the scores that rank them in the product."""
        return np.argsort(-sum_weighted(self.model.list_ranking_scores(), self.search.shares), kind="stable")


def eliminate(end: ReplayedEnd, finalists: int, seed: int) -> tuple[float, int, int]:
    """Share of the select items that is asked, and the winners by elimination and by all of them."""
    places = end.rank()[:finalists]
    scores = {name: task.scores_NI for name, task in end.select.measure(end.merges[places]).items()}
    documents = {name: task.documents_I for name, task in end.select.measure(end.merges[places]).items()}
    rounds = deal_rounds({name: _list_requests(numbers) for name, numbers in documents.items()}, seed=seed)
    objectives = ObjectiveSet.build((Objective(),), tasks=list(scores))
    rule = EliminationRule(objectives, documents, (len(rounds) - 1) * (finalists - 1))

    alive, asked = list(range(finalists)), 0
    seen = {name: np.zeros(len(numbers), dtype=bool) for name, numbers in documents.items()}
    for number, dealt in enumerate(rounds, 1):
        for name, taken in dealt.items():
            seen[name][list(taken)] = True
            asked += len(alive) * len(taken)
        if number < len(rounds):
            so_far = {
                each: {
                    name: [float(score) if there else None for score, there in zip(row[each], seen[name], strict=True)]
                    for name, row in scores.items()
                }
                for each in alive
            }
            beaten = rule.list_beaten(so_far)
            alive = [each for each in alive if each not in beaten]

    means = np.mean([row.mean(axis=1) for row in scores.values()], axis=0)
    whole = finalists * sum(len(numbers) for numbers in documents.values())
    return asked / whole, int(places[max(alive, key=lambda each: means[each])]), int(places[int(means.argmax())])


def _list_requests(documents: np.ndarray) -> SplitRequests:
    items = len(documents)
    ones = np.ones(items, np.int32)
    return SplitRequests(np.arange(items + 1), np.zeros(items, np.int32), ones, ones, documents.astype(np.int32))


def compare_optimism(end: ReplayedEnd, seed: int) -> tuple[list[float], list[float]]:
    """Simulated and real excess of the winner on search and on select items."""
    merges = len(end.merges)
    covariance = end.model.process.compute_covariance(end.model.points) + 1e-9 * np.eye(merges)
    root = np.linalg.cholesky(covariance)
    tasks = {
        name: simulate_task(end.model, name, task, root_NN=root, select_ratio=1.0, by_response=True)
        for name, task in end.search.measure(end.merges).items()
    }
    rule = ChoiceRule(end.search.shares, {}, np.ones(merges, dtype=bool), FINALISTS[0])
    found = simulate_optimism(tasks, rule, {name: generator(seed, "choosing optimism", name) for name in tasks})

    finalists = end.rank()[: FINALISTS[0]]
    winner = int(end.merges[finalists[int(end.select.score(end.merges[finalists]).argmax())]])
    scores = end.search.pool.compute_scores().mean(axis=1)
    # All documents say which half is the better one, so that neither part of them is favoured.
    better = np.flatnonzero(scores >= np.median(scores))
    real = [measure_luck(world, [winner]) - measure_luck(world, better) for world in (end.search, end.select)]
    return [found.search.mean, found.select.mean], real


def measure_luck(world: FiniteWorld, rows: Sequence[int] | np.ndarray) -> float:
    """Mean score of merges on the items that a world searches on, minus that on those that judge."""
    return float(world.score(rows).mean() - world.judge(rows).mean())


def print_choices(pool: RecordedPool, seeds: int) -> None:
    """The first two tables."""
    for share in SHARES:
        ends = [ReplayedEnd.draw(pool, share, seed) for seed in range(seeds)]
        items = round(np.mean([len(each) for each in ends[0].search.items.search.values()]))
        print(f"\n{pool.name}: {MERGES} merges, {items} items a task to search on and as many to select on")
        for finalists in FINALISTS:
            found = [eliminate(end, finalists, seed) for seed, end in enumerate(ends)]
            truth = [end.search.judge(end.merges) for end in ends]
            loss = [POINTS * (each[whole] - each[ours]) for each, (_, ours, whole) in zip(truth, found, strict=True)]
            other = sum(ours != whole for _, ours, whole in found)
            print(
                f"{finalists} finalists: {np.mean([asked for asked, _, _ in found]):.0%} of the select items asked; "
                f"another winner in {other} of {seeds}, test score {-np.mean(loss):+.2f} points"
            )

        print_optimism(f"{MERGES} merges of a design", ends)
        searched = [end.search_on(seed) for seed, end in enumerate(ends)]
        print_optimism(f"{SEARCHED} merges of a search on these items", searched)


def print_optimism(name: str, ends: Sequence[ReplayedEnd]) -> None:
    """Mean of the simulated optimism, and of the real one with its standard error; a row a split."""
    pairs = POINTS * np.array([compare_optimism(end, seed) for seed, end in enumerate(ends)])
    means, errors = pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / np.sqrt(len(ends))
    for place, split in enumerate(("search", "select")):
        print(
            f"optimism on {split} items, {name}: simulated {means[0, place]:.2f}, "
            f"real {means[1, place]:.2f} +- {errors[1, place]:.2f} points",
            flush=True,
        )


def print_mixtures(pool: RecordedPool, seeds: int, counts: Sequence[int]) -> None:
    """Error of surrogates at recorded merges that they have not seen, on documents that they have not seen."""
    rows = np.flatnonzero((pool.weights_MV >= 0).all(axis=1) & (pool.weights_MV.sum(axis=1) <= MOST))
    shares = pool.weights_MV[rows].astype(np.float64) / MOST
    mixtures = np.concatenate([shares, 1 - shares.sum(axis=1, keepdims=True)], axis=1)
    print(f"\n{pool.name}: mixtures of {len(pool.vectors)} vectors and the base, half of the documents")
    for count in counts:
        chosen, errors = Counter[bool](), []
        for seed in range(seeds):
            replay = FiniteWorld(pool, SeenItems.draw(pool, 0.5, seed=seed))
            order = generator(seed, "choosing mixtures").permutation(len(rows))
            points, others = order[:count], order[count:]
            measured = replay.measure(rows[points])
            table, names = np.stack([task.means for task in measured.values()], axis=1), list(measured)
            responses = fit_item_responses(mixtures[points], measured, seed=seed)
            truth = np.stack(
                [pool.tasks[name].score_MN[:, replay.items.test[name]].mean(axis=1)[rows[others]] for name in names],
                axis=1,
            )
            fits = [
                Surrogate.fit(mixtures[points], table, capabilities=names, responses=given, seed=seed)
                for given in (responses, {})
            ]
            chosen.update(choice == RESPONSE for choice in fits[0].choice)
            errors.append([_measure_error(fit.mean(mixtures[others]) - truth) for fit in fits])
        ours, without = POINTS * np.mean(errors, axis=0)
        print(
            f"{count} points: chosen for {chosen[True]} of {chosen.total()} tasks; "
            f"error {ours:.2f} points, {without:.2f} without it"
        )


def _measure_error(errors: np.ndarray) -> float:
    """Root mean square, without what all mixtures of a task have in common: other items are easier or harder."""
    return float(np.sqrt(np.mean((errors - errors.mean(axis=0)) ** 2)))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", nargs="+", default=["demo", "demo_ties"], help="names, or paths of files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--points", type=int, nargs="+", default=[12, 24, 40], help="mixtures that surrogates see")
    options = parse_options(parser, lambda _: {"pools": ["demo"], "seeds": 2, "points": [12]})

    for name in options.pools:
        pool = load_pool(name)
        if "choices" in options.parts:
            print_choices(pool, options.seeds)
        if "mixtures" in options.parts and pool.method == "task_arithmetic":
            print_mixtures(pool, max(2, options.seeds // 5), options.points)


if __name__ == "__main__":
    main()
