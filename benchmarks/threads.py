"""Seconds of a trial's evaluation under `evaluate.threads: 1`, all cores and `auto`, on a quiet machine and a busy one.

    python benchmarks/threads.py --rounds 5

Each measurement is a process of its own that opens the demo's base and tasks, settles its threads and evaluates all
search items; the median evaluation counts, loading does not. Busy is beside as many single-threaded processes as there
are cores. The order of the settings changes from round to round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from measure import machine
from tiny import parse_options

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo" / "aftermix.yaml"
SETTINGS: Mapping[str, int | str | None] = {"1": 1, "all": None, "auto": "auto"}
LOOP = "while True: pass"


def measure_trials(threads: int | str | None, *, items: int | None, trials: int) -> dict[str, Any]:
    """Median seconds of an evaluation, and the threads that it was made with."""
    import torch

    from aftermix.checkpoints.pool import open_pool
    from aftermix.config import parse_config
    from aftermix.evaluation.suites.harness_suite import HarnessSuite
    from aftermix.jobs.evaluator import ModelEvaluator

    values = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    values = {"base": values["base"], "evaluate": {**values["evaluate"], "threads": threads}}
    if items is not None:
        tasks = values["evaluate"]["tasks"][:1]
        values["evaluate"] |= {"tasks": tasks, "items": {"search": items, "select": 1, "test": 1}}
    config = parse_config(values, where=DEMO.name, folder=DEMO.parent)
    assert config.evaluate is not None

    suite = HarnessSuite.build(config.evaluate)
    evaluator = ModelEvaluator.open(open_pool(config), config.evaluate, suite)
    evaluator.rehearse(config.evaluate)

    seconds = []
    for _ in range(trials + 1):
        started = time.perf_counter()
        suite.evaluate(evaluator.engine.lm, "search")
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[1:]), "threads": torch.get_num_threads()}  # the first plans batches


@contextmanager
def keep_busy(processes: int) -> Iterator[None]:
    """Single-threaded processes that never wait."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run_setting(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The measurement of one setting, in a process of its own (tiny ones in this process)."""
    if options.tiny is not None:
        return measure_trials(SETTINGS[name], items=options.items, trials=options.trials)
    command = [sys.executable, __file__, "--measure", name, "--trials", str(options.trials)]
    command += ["--items", str(options.items)] if options.items is not None else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def print_table(name: str, found: Mapping[str, list[dict[str, Any]]]) -> None:
    """Medians, and the ratio of `auto` to the best fixed setting, round by round."""
    print(f"\n{name}\n\n| threads | median s a trial | threads taken |\n|---|---|---|")
    for setting, rounds in found.items():
        taken = ", ".join(str(entry["threads"]) for entry in rounds)
        print(f"| {setting} | {statistics.median(entry['seconds'] for entry in rounds):.2f} | {taken} |")
    ratios = [
        auto["seconds"] / min(one["seconds"], every["seconds"])
        for one, every, auto in zip(found["1"], found["all"], found["auto"], strict=True)
    ]
    print(f"\n`auto` over the best fixed setting: median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}")


def main() -> None:
    """Measure all settings, quiet and busy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=3, help="evaluations of one measurement (default: 3)")
    parser.add_argument("--items", type=int, help="search items, of the first task alone (default: all of the demo's)")
    parser.add_argument("--measure", choices=list(SETTINGS), help=argparse.SUPPRESS)
    options = parse_options(parser, lambda _: {"rounds": 1, "trials": 1, "items": 2})
    if options.measure:
        print(json.dumps(measure_trials(SETTINGS[options.measure], items=options.items, trials=options.trials)))
        return

    print(machine())
    cores = psutil.cpu_count() or 1 if options.tiny is None else 1
    for name, others in (("Quiet", 0), (f"Beside {cores} busy processes", cores)):
        found: dict[str, list[dict[str, Any]]] = {setting: [] for setting in SETTINGS}
        with keep_busy(others):
            for number in range(options.rounds):
                for setting in list(SETTINGS)[:: 1 if number % 2 == 0 else -1]:
                    found[setting].append(run_setting(setting, options))
        print_table(name, found)


if __name__ == "__main__":
    main()
