"""Run folders as the search job leaves them, made without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

Json = dict[str, Any]
REASON = "layers.3.mlp.up_proj.weight: vector 'math' gives NaN. Lower its weight."


@dataclass(frozen=True)
class RunMaker:
    """A synthetic search: scores follow a smooth hill over the weights, plus noise per task."""

    vectors: Sequence[str] = ("it", "ja", "math", "code", "law")
    tasks: Sequence[str] = ("gsm8k", "ja_leaderboard_mgsm", "humaneval", "lawbench")
    trials: int = 60
    objectives: int = 1
    finished: bool = True
    failed: Sequence[int] = ()
    pruned: Sequence[int] = ()
    imported: int = 0
    gap: float = 0.032
    """Winner minus best baseline on test items; its interval is 0.018 to either side."""
    scheme: str = "disjoint"
    floors: Mapping[str, float] | None = None
    baselines: bool = True
    signed: bool = False
    """Whether weights range over [-1, 1]."""

    def write(self, folder: Path) -> Path:
        """Write the run's files into `folder` and return it."""
        (folder / "items").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(self._config(), sort_keys=False), encoding="utf-8")
        trials = self._trials()
        lines = "".join(json.dumps(trial, ensure_ascii=False) + "\n" for trial in trials)
        (folder / "trials.jsonl").write_text(lines, encoding="utf-8")
        write_json(folder / "items" / "split.json", {task: self._split(task) for task in self.tasks})
        write_json(folder / "lock.json", self._lock())
        if self.finished:
            write_json(folder / "best.json", self._best(trials))
            (folder / "model").mkdir()
            for name in ("config.json", "model.safetensors", "aftermix.yaml"):
                (folder / "model" / name).touch()
        return folder

    def _config(self) -> Json:
        bounds = [[-1.0, 1.0] if self.signed else [0.3, 1.0]] + [[-1.0, 1.0] if self.signed else [0.0, 1.0]] * 9
        vectors: Json = {
            name: {
                "model": f"/models/{name}",
                "role": "expert",
                "range": bounds[place],
                "tokens": 250_000_000 * max(place, 1),
            }
            for place, name in enumerate(self.vectors)
        }
        vectors[self.vectors[0]] = {"model": f"/models/{self.vectors[0]}", "role": "instruction", "range": bounds[0]}
        items = {"search": 100, "select": 300, "test": "rest", "scheme": self.scheme}
        return {
            "base": "google/gemma-3-270m",
            "vectors": vectors,
            "merge": {"method": "dare_linear", "density": 0.7, "exclude": ["embed_tokens", "lm_head", "rotary"]},
            "evaluate": {"tasks": list(self.tasks), "num_fewshot": 1, "items": items},
            "search": {"trials": self.trials, "startup": self.trials // 4, "objective": self._objectives()},
        }

    def _objectives(self) -> list[Json]:
        if self.objectives == 1:
            return [{"tasks": dict.fromkeys(self.tasks, 1.0), "floors": dict(self.floors or {})}]
        return [{"name": f"{task} only", "tasks": {task: 1.0}} for task in self.tasks[: self.objectives]]

    def _sizes(self, task: str) -> Json:
        few = task == "humaneval"
        return {"search": 27, "select": 82, "test": 55} if few else {"search": 100, "select": 300, "test": 1019}

    def _note(self, task: str) -> str | None:
        return "164 items: split in proportion" if task == "humaneval" else None

    def _split(self, task: str) -> Json:
        parts = {part: [f"{task}/{number}" for number in range(size)] for part, size in self._sizes(task).items()}
        return {**parts, "note": self._note(task), "overlap": self.scheme == "first"}

    def _trials(self) -> list[Json]:
        rng = np.random.default_rng(0)
        best_at = np.linspace(0.62, 0.15, len(self.vectors))
        trials = []
        for number in range(self.trials + self.imported):
            step = max(0, number - self.imported)
            spread = 0.45 if step < self.trials // 4 else 0.3 * (1 - step / (self.trials + 1)) + 0.04
            weights = np.clip(best_at + rng.normal(0, spread, len(best_at)), -1.0 if self.signed else 0.0, 1.0)
            trials.append(self._trial(number, weights, best_at, rng))
        return trials

    def _trial(self, number: int, weights: Any, best_at: Any, rng: np.random.Generator) -> Json:
        hill = 0.33 + 0.3 * np.exp(-3 * float(((weights - best_at) ** 2).sum()))
        scores: Json = {}
        for place, task in enumerate(self.tasks):
            trade = (0.12 if self.objectives == 1 else 0.4) * (weights[place % len(weights)] - 0.5)
            scores[task] = _share(hill + 0.04 * np.sin(3 * place) - trade + rng.normal(0, 0.012))
        state = "failed" if number in self.failed else "pruned" if number in self.pruned else "complete"
        value = self._objective(scores) if state == "complete" else None
        return {
            "number": number,
            "state": state,
            "weights": {name: round(float(weight), 4) for name, weight in zip(self.vectors, weights, strict=True)},
            "settings": {},
            "scores": scores if state == "complete" else {},
            "objective": value if value is None or len(value) > 1 else value[0],
            "feasible": all(scores[task] >= floor for task, floor in (self.floors or {}).items()),
            "seconds": {"combine": 0.21 + 0.02 * rng.random(), "evaluate": 8 + 3 * rng.random(), "overhead": 0.05},
            "error": REASON if state == "failed" else None,
            "origin": self._origin(number),
        }

    def _origin(self, number: int) -> str:
        step = number - self.imported
        if step < 0:
            return f"runs/earlier#{number}"
        return "prior" if step < 5 else "startup" if step < self.trials // 4 else "sampler"

    def _objective(self, scores: Json) -> list[float]:
        if self.objectives == 1:
            return [sum(scores.values()) / len(scores)]
        return [scores[task] for task in self.tasks[: self.objectives]]

    def _best(self, trials: list[Json]) -> Json:
        rng = np.random.default_rng(1)
        ranked = sorted((t for t in trials if t["objective"] is not None), key=lambda t: -_first(t["objective"]))
        candidates = [self._candidate(place, trial, rng) for place, trial in enumerate(ranked[:3])]
        winner, test = ranked[0], self._measured(ranked[0]["scores"], -0.021, 0.021, rng)
        data = {name: max(winner["weights"][name], 0.0) for name in self.vectors[1:]}
        total = sum(data.values())
        return {
            "winner": {
                "trial": winner["number"],
                "method": "dare_linear",
                "options": {"density": 0.7, "lambda": 1.0, "seed": 0},
                "exclude": ["embed_tokens", "lm_head", "rotary"],
            },
            "weights": winner["weights"],
            "settings": {},
            "ratios": {name: weight / total for name, weight in data.items()} if total else None,
            "ratios_note": None if total else "There is no data vector, so there is no mixture.",
            "vectors": {
                name: {key: vector.get(key) for key in ("model", "role", "tokens", "range")}
                for name, vector in self._config()["vectors"].items()
            },
            "objective": [
                {
                    "name": objective.get("name", "mean"),
                    "tasks": _normal(objective["tasks"]),
                    "floors": self.floors or {},
                }
                for objective in self._objectives()
            ],
            "metrics": dict.fromkeys(self.tasks, "acc,none"),
            "search": candidates[0]["search"],
            "select": candidates[0]["select"],
            "test": test,
            "floors_met": winner["feasible"],
            "candidates": candidates,
            "front": None,
            "baselines": self._baselines(test, rng) if self.baselines else [],
            "scan": {
                "vector": self.vectors[0],
                "points": [{"weight": n / 10, "select": 0.5 - 0.4 * (n / 10 - 0.6) ** 2} for n in range(1, 11)],
            },
            "items": {
                "scheme": self.scheme,
                "overlap": self.scheme == "first",
                "tasks": {task: {**self._sizes(task), "note": self._note(task)} for task in self.tasks},
            },
            "seconds": {"prepare": 4.2, "search": {}, "select": 84.0, "test": 310.0},
        }

    def _candidate(self, place: int, trial: Json, rng: np.random.Generator) -> Json:
        return {
            "trial": trial["number"],
            "weights": trial["weights"],
            "settings": {},
            "search": self._measured(trial["scores"], 0.0, 0.04, rng),
            "select": self._measured(trial["scores"], -0.009 - 0.006 * place, 0.026, rng),
        }

    def _measured(self, scores: Json, shift: float, width: float, rng: np.random.Generator) -> Json:
        tasks = {task: _share(score + shift + rng.normal(0, 0.006)) for task, score in scores.items()}
        objective = self._objective(tasks)
        return {
            "objective": objective,
            "interval": [[value - width, value + width] for value in objective],
            "tasks": {
                task: {"score": score, "interval": [score - 1.8 * width, score + 1.8 * width], "items": 300}
                for task, score in tasks.items()
            },
        }

    def _baselines(self, test: Json, rng: np.random.Generator) -> list[Json]:
        it, *experts = self.vectors
        kinds: list[tuple[str, str, str | None, Json]] = [
            ("base", "base", None, {}),
            (it, "instruction", None, {it: 1.0}),
        ]
        kinds += [(name, "expert", None, {name: 1.0}) for name in experts]
        mixed = "expert+0.6 instruction"
        kinds += [(f"{name} + 0.6 {it}", mixed, "task_arithmetic", {name: 1.0, it: 0.6}) for name in experts]
        kinds += [(f"{it} at its best weight", "instruction scan", "task_arithmetic", {it: 0.6})]
        uniform = {name: round(1 / len(self.vectors), 3) for name in self.vectors}
        methods = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
        kinds += [(f"uniform {method}", "uniform", method, uniform) for method in methods]
        baselines = []
        ranks = np.random.default_rng(5).permutation(len(kinds)).tolist()
        for rank, (name, kind, method, weights) in zip(ranks, kinds, strict=True):
            gap = self.gap + 0.014 * rank
            tasks = {task: _share(measured["score"] - gap) for task, measured in test["tasks"].items()}
            measured = self._measured(tasks, 0.0, 0.021, rng)
            measured["objective"] = [value - gap for value in test["objective"]]
            measured["interval"] = [[value - 0.02, value + 0.02] for value in measured["objective"]]
            lead = {"objective": [gap] * self.objectives, "interval": [[gap - 0.018, gap + 0.018]] * self.objectives}
            made = {"name": name, "kind": kind, "method": method, "density": None, "weights": weights}
            baselines.append({**made, "test": measured, "difference": lead})
        return baselines

    def _lock(self) -> Json:
        names = ("base", *(f"vectors.{name}" for name in self.vectors))
        return {
            "inputs": {
                name: {"model": f"/models/{name}", "files": {"model.safetensors": f"sha256:{place:02x}" * 32}}
                for place, name in enumerate(names)
            },
            "seeds": {"merge": 0, "search": 0, "items": 0},
            "versions": {"aftermix": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "optuna": "5.0.0"},
        }


def _share(score: float) -> float:
    return round(float(min(max(score, 0.0), 1.0)), 5)


def _first(objective: Any) -> float:
    return objective[0] if isinstance(objective, list) else objective


def _normal(tasks: Json) -> Json:
    return {task: weight / sum(tasks.values()) for task, weight in tasks.items()}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def make_run(tmp_path: Path):
    """`make_run(trials=10, ...)` writes a run and returns its folder."""

    def make(name: str = "ja-math", **options: Any) -> Path:
        return RunMaker(**options).write(tmp_path / name)

    return make


@pytest.fixture
def edit_json():
    """`edit_json(path, lambda values: ...)` changes a JSON file in place."""

    def edit(path: Path, change: Any) -> None:
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        write_json(path, values)

    return edit
