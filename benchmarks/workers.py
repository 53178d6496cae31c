"""What the process that asks costs when many workers measure: seconds per point, beside the evaluations of 64 workers.

A search by response goes through the product's own loop, journal, answers, fits, proposals and worker processes; the
workers answer at once, from merges recorded in a pool. What is counted is the CPU time of the asking process, the fits
of the response included. With 64 workers that many points end in the time of one evaluation, so its share of it is 64
times the seconds per point over those of an evaluation: above 1 the workers wait.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from benchmarks.measure import machine
from benchmarks.pools import RecordedPool, RecordedTask, load_pool
from benchmarks.pools.emulator import PoolEmulator
from benchmarks.replays.recorded_workers import open_recorded
from benchmarks.replays.worlds import ContinuousWorld, SeenItems
from benchmarks.tiny import parse_options

from aftermix.config import SearchConfig, Split
from aftermix.runs.answers.requests import RequestTable, SplitRequests, TaskRequests, write_requests
from aftermix.runs.trials import ItemMeasurement, Point, describe_point
from aftermix.search.proposing.response_proposer import ResponseProposer
from aftermix.search.study import run_study, suggest_batch
from aftermix.workers.crew import WorkerCrew
from aftermix.workers.executor import Workplace
from aftermix.workers.processes import ProcessExecutor

WORKERS = 64
"""Workers that the figure is for; the answers are those of fewer, which decides nothing but waiting."""
EVALUATIONS_S = (600.0, 2.0)
"""Median evaluations: of a large model that writes its answers, and of the demo's."""


@dataclass(frozen=True)
class CoordinatorCost:
    """Time of the asking process over one search."""

    points: int
    cpu_s: float
    """CPU seconds of its threads."""
    proposing_s: float
    """Of these, those of fits and proposals."""
    wall_s: float


@dataclass
class TimedProposals:
    """Proposals of a search, and the CPU seconds that they took."""

    proposer: ResponseProposer
    cpu_s: float = 0.0

    def propose(self, *arguments: object) -> object:
        """As :meth:`ResponseProposer.propose`."""
        started = process_time()
        try:
            return self.proposer.propose(*arguments)
        finally:
            self.cpu_s += process_time() - started


@dataclass(frozen=True)
class AskedWorkers:
    """Measurements of a search by a crew, as the product's own evaluator asks for them."""

    crew: WorkerCrew

    def announce(self, point: Point, split: Split) -> None:
        """Begin the measurement."""
        self.crew.submit(describe_point(point), point, label=split)

    def measure(self, point: Point, split: Split) -> ItemMeasurement:
        """Its result, waited for."""
        self.announce(point, split)
        outcome = self.crew.take(describe_point(point))
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


def tabulate_requests(pool: RecordedPool) -> RequestTable:
    """The requests of the pool as a run's: all are search items, and the first stands for the other splits."""
    return {name: _tabulate_task(task) for name, task in pool.tasks.items()}


def _tabulate_task(task: RecordedTask) -> TaskRequests:
    is_choice = task.kind == "multiple_choice"
    splits: dict[Split, SplitRequests] = {
        split: SplitRequests(
            task.offsets[: count + 1].astype(np.int64),
            task.gold_N[:count].astype(np.int32) if is_choice else np.full(count, -1, np.int32),
            *(task.length_R[: task.offsets[count]].astype(np.int32) for _ in range(2)),
        )
        for split, count in (("search", task.items), ("select", 1), ("test", 1))
    }
    divided = bool((task.length_R != 1).any())
    metric = "acc_norm,none" if divided else f"{task.metric},none"
    return TaskRequests("choice" if is_choice else "reference", metric, "characters" if divided else None, splits)


def measure_coordinator(name: str, run: Path, *, trials: int, batch: int, workers: int) -> CoordinatorCost:
    """One search in the folder `run`."""
    pool = load_pool(name)
    world = ContinuousWorld(pool, SeenItems.draw(pool, 1.0, seed=0), PoolEmulator.fit(pool))
    write_requests(run, tabulate_requests(pool))
    config = SearchConfig(trials=trials, batch=batch, precision=1e-9)
    proposer = ResponseProposer(
        run=run,
        space=world.space,
        coordinates=world.coordinates,
        config=config,
        objectives=world.objectives,
        tasks=tuple(pool.tasks),
        fall_back=partial(suggest_batch, world.space, config, world.objectives),
    )
    timed = TimedProposals(proposer)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    executor = ProcessExecutor(Workplace(open_recorded, name, (environment,) * workers))
    try:
        asked = AskedWorkers(WorkerCrew(executor, workers))
        asked.measure(Point(dict.fromkeys(pool.vectors, 0.5)), "search")  # the workers are open
        started, busy = perf_counter(), process_time()
        ended = run_study(
            run,
            space=world.space,
            config=config,
            tasks=list(pool.tasks),
            measure=asked.measure,
            announce=asked.announce,
            propose=timed.propose,
            design=proposer.startup,
        )
        return CoordinatorCost(len(ended), process_time() - busy, timed.cpu_s, perf_counter() - started)
    finally:
        executor.close()


def print_cost(pool: str, batch: int, cost: CoordinatorCost) -> None:
    """A row of the table for each evaluation."""
    each = cost.cpu_s / cost.points
    shares = ", ".join(f"{100 * WORKERS * each / seconds:.2f} % of {seconds:g} s" for seconds in EVALUATIONS_S)
    print(
        f"{pool:16} {cost.points:4} points in batches of {batch}: {1e3 * each:6.1f} ms of the asking process a point "
        f"({1e3 * cost.proposing_s / cost.points:.1f} ms of them fits and proposals); x {WORKERS} is {shares}"
    )


def main() -> None:
    """Measure the searches of all pools that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", nargs="+", default=["demo", "demo_ties"])
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 4])
    parser.add_argument("--workers", type=int, default=2, help="processes that answer (default: 2)")
    options = parse_options(parser, lambda _: {"pools": ["demo_generated"], "trials": 16, "batches": [4], "workers": 1})
    print(machine())
    for pool in options.pools:
        for batch in options.batches:
            with tempfile.TemporaryDirectory() as folder:
                cost = measure_coordinator(
                    pool, Path(folder), trials=options.trials, batch=batch, workers=options.workers
                )
            print_cost(pool, batch, cost)


if __name__ == "__main__":
    main()
