"""Results of jobs as documents of JSON: what `--json` prints. The shapes are those of docs/json-output.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftermix.checkpoints.formats.vector_file import VectorFacts
    from aftermix.errors import Problem
    from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
    from aftermix.jobs.plan.estimate import JobEstimate
    from aftermix.jobs.scale.command import ScalePlan
    from aftermix.saliency.storage import StatisticsNote

Document = Mapping[str, Any]
"""One object of JSON."""


def build_diagnosis(diagnosis: ConfigDiagnosis) -> Document:
    """`doctor`: `problems`, `notes` and `facts`."""
    return {
        "problems": _list_problems(diagnosis.problems),
        "notes": _list_problems(diagnosis.notes),
        "facts": list(diagnosis.facts),
    }


def build_estimate(needs: JobEstimate) -> Document:
    """`plan`: every number that the text has, and `seconds` by split."""
    return asdict(needs) | {"remarks": _list_problems(needs.remarks), "seconds": needs.seconds}


def build_scale_plan(plan: ScalePlan) -> Document:
    """`plan --hardware`: every number of the plan; each phase with its GPU hours, each total with its share."""
    values = asdict(plan)
    values["times"] = [asdict(time) | {"gpu_hours": time.gpu_hours} for time in plan.times]
    values["totals"] = [asdict(total) | {"share": total.share} for total in plan.totals]
    values["rivals"] = [asdict(rival) | {"ratio": rival.ratio} for rival in plan.rivals]
    if plan.point is not None:
        values["point"] = asdict(plan.point) | {"swap_s": plan.point.swap_s, "seconds": plan.point.seconds}
    return values


def build_vector(facts: VectorFacts, output: Path) -> Document:
    """`diff`: the folder, what is in it, and its error, of the worst tensor too."""
    error = facts.error
    worst = max(error.tensors, key=lambda name: error.tensors[name].relative_l2) if error.relative_l2 else None
    return {
        "vector": str(output),
        "dtype": facts.dtype,
        "stored": len(error.tensors),
        "left_out": len(facts.unchanged),
        "relative_l2": error.relative_l2,
        "max_abs": error.max_abs,
        "worst": None if worst is None else {"tensor": worst, "relative_l2": error.tensors[worst].relative_l2},
    }


def build_statistics(notes: Mapping[str, StatisticsNote], output: Path) -> Document:
    """`calibrate`: the folder, and what was read of each vector."""
    vectors = {
        name: {
            "weights": len(note.weights),
            "samples": note.data.samples,
            "texts": note.data.texts,
            "tokens": note.data.tokens,
            "uncovered": list(note.uncovered),
        }
        for name, note in notes.items()
    }
    return {"statistics": str(output), "vectors": vectors}


def build_average(folder: Path) -> Document:
    """`average`: the folder, and what `average.json` in it says."""
    from aftermix.jobs.average.command import RESULT

    return {"model": str(folder)} | _read(folder / RESULT)


def build_run(run: Path) -> Document:
    """`search` and `mixture`: the run, its model and report, what `best.json` says, and `verification.json` if any."""
    from aftermix.runs.records import BEST_FILE, MODEL_FOLDER
    from aftermix.runs.verification_records import VERIFICATION_FILE

    verified = run / VERIFICATION_FILE
    return {
        "run": str(run),
        "model": str(run / MODEL_FOLDER),
        "report": str(run / "report.html"),
        "best": _read(run / BEST_FILE),
        **({"verification": _read(verified)} if verified.is_file() else {}),
    }


def build_table_mixture(best: Path) -> Document:
    """`mixture --table`: the folder, and what its `best.json` says."""
    return {"run": str(best.parent), "best": _read(best)}


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content


def _list_problems(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [asdict(problem) for problem in problems]
