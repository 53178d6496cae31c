"""The script that people write around three good programs: Optuna asks, mergekit writes the merge to disk, a fresh
process of lm-eval scores it.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml
from measure import Cost, run

optuna.logging.set_verbosity(optuna.logging.ERROR)

Samples = Mapping[str, Sequence[int]]
"""Numbers of the documents of each task."""


@dataclass(frozen=True)
class RivalSettings:
    """How lm-eval is started: batch size and CPU threads."""

    batch_size: int
    threads: int

    def __str__(self) -> str:
        return f"batch size {self.batch_size}, {self.threads} threads"


@dataclass
class RivalScript:
    """The script: recipes, merges and results lie in `folder`, each merge in the place of the one before."""

    folder: Path
    mergekit: str
    base: str
    vectors: Mapping[str, str]
    include_path: str
    """Folder of the tasks. lm-eval runs in it, since it takes their data from the working directory."""
    metrics: Mapping[str, str]
    """Key of the metric of each task, as lm-eval's results have it."""
    dtype: str
    settings: RivalSettings
    costs: dict[str, list[Cost]] = field(default_factory=lambda: {"merge": [], "evaluate": []})

    def search(
        self, points: Iterable[Mapping[str, float]], samples: Samples, log: Callable[[str], None]
    ) -> list[dict[str, float]]:
        """Score every point in turn; Optuna is told to try exactly these, so that both sides have the same trials."""
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        for point in points:
            study.enqueue_trial(dict(point))
        found: list[dict[str, float]] = []

        def objective(trial: optuna.Trial) -> float:
            weights = {name: trial.suggest_float(name, -10.0, 10.0) for name in self.vectors}
            scores = self.score(self.merge(weights), samples)
            found.append(scores)
            merge_s, evaluate_s = (self.costs[stage][-1].wall_s for stage in ("merge", "evaluate"))
            log(f"trial {trial.number}: {merge_s:.1f} + {evaluate_s:.1f} s")
            return sum(scores.values()) / len(scores)

        study.optimize(objective, n_trials=len(study.get_trials(deepcopy=False)))
        return found

    def merge(self, weights: Mapping[str, float]) -> Path:
        """Task arithmetic by mergekit, to disk."""
        models = [{"model": self.vectors[name], "parameters": {"weight": value}} for name, value in weights.items()]
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": self.base,
            "models": models,
            "parameters": {"normalize": False},
            "dtype": "float32",
            "out_dtype": self.dtype,
        }
        path, target = self.folder / "recipe.yml", self.folder / "merged"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        self._run("merge", [self.mergekit, str(path), str(target), "--no-copy-tokenizer", "--quiet", "-j", "2"])
        return target

    def score(self, model: Path, samples: Samples) -> dict[str, float]:
        """Scores by a fresh process of lm-eval."""
        results = self.folder / "results"
        shutil.rmtree(results, ignore_errors=True)
        arguments = f"pretrained={model},tokenizer={self.base},dtype=float32"
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments]
        command += ["--tasks", ",".join(samples), "--include_path", self.include_path, "--device", "cpu"]
        command += ["--samples", json.dumps({name: list(numbers) for name, numbers in samples.items()})]
        command += ["--batch_size", str(self.settings.batch_size), "--output_path", str(results)]
        self._run("evaluate", command)

        path = next(results.rglob("results_*.json"))
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
        return {task: float(entries[task][self.metrics[task]]) for task in samples}

    def settle(
        self, samples: Samples, sizes: Sequence[int], threads: Sequence[int], log: Callable[[str], None]
    ) -> None:
        """Take the batch size and threads with which the base is scored soonest."""
        timed: dict[RivalSettings, float] = {}
        for self.settings in itertools.starmap(RivalSettings, itertools.product(sizes, threads)):
            self.score(Path(self.base), samples)
            timed[self.settings] = self.costs["evaluate"][-1].wall_s
            log(f"lm-eval with {self.settings}: {timed[self.settings]:.1f} s")
        self.settings = min(timed, key=timed.__getitem__)
        self.forget()

    def measure_start(self, samples: Samples) -> float:
        """Seconds of a process of lm-eval that scores one item a task: what does not grow with the items."""
        self.score(Path(self.base), {name: numbers[:1] for name, numbers in samples.items()})
        return self.costs["evaluate"].pop().wall_s

    def forget(self) -> None:
        """Begin the account of costs anew."""
        self.costs = {"merge": [], "evaluate": []}

    def _run(self, stage: str, command: list[str]) -> None:
        self.costs[stage].append(
            run(command, env={"OMP_NUM_THREADS": str(self.settings.threads)}, folder=self.include_path)
        )


def count_written_bytes() -> int:
    """Bytes that this process and the children that have ended gave to the disk."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def count_positions(base: str, include_path: str, samples: Samples, batch_size: int) -> int:
    """Positions that lm-eval's model computes to score one merge, padding included."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=base, tokenizer=base, dtype="float32", batch_size=batch_size, device="cpu")
    counted: list[int] = []
    embedding = lm.model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _, inputs: counted.append(inputs[0].numel()))
    with chdir(include_path):
        simple_evaluate(
            lm,
            tasks=list(samples),
            task_manager=TaskManager(include_path=include_path),
            samples={name: list(numbers) for name, numbers in samples.items()},
            bootstrap_iters=0,
        )
    hook.remove()
    return sum(counted)
