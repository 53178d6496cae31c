"""The first file, with a comment at every line that a user will look at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from aftermix.checkpoints.model import Model
from aftermix.config import VectorConfig
from aftermix.files import write_atomically
from aftermix.jobs.export.output_place import refuse_output
from aftermix.jobs.init.found_models import FoundModel, find_models

TASK_NAME = re.compile(r"^task:[ \t]*['\"]?([^\s'\"#]+)['\"]?[ \t]*(#.*)?$", re.MULTILINE)
MOST_TASK_BYTES = 1 << 20
FAR = "../../.."
"""From here up a path is written absolute."""
WIDTH = 44
"""Column of the comments."""


@dataclass(frozen=True)
class LocalTasks:
    """Tasks of lm-eval in files beside the new one."""

    folder: Path
    names: tuple[str, ...]


def init(base: str, experts: Sequence[str], output: Path) -> list[str]:
    """Write the commented file `output` for `experts` of `base`, and return what is to be done next, line by line.

    Roles and tokens come from what is in the folders; `tasks` is left empty, with the local ones listed. No weights
    are read. Raises :class:`ConfigError` where `output` exists, and :class:`AftermixError` for models that cannot be
    opened.
    """
    refuse_output(output, is_file=True, makes_parents=True)
    found_base, found = find_models(base, experts)
    tasks = find_local_tasks(output.parent)
    write_atomically(output, format_first_file(found_base, found, tasks, folder=output.parent))
    return [
        f"File: {output}",
        f"Name `evaluate.tasks` in it, then: aftermix doctor {output}; aftermix plan {output}; "
        f"aftermix search {output} -o RUN",
    ]


def find_local_tasks(folder: Path) -> LocalTasks | None:
    """Task files of lm-eval in `folder/tasks`, or else in `folder`; None without any."""
    for place in (folder / "tasks", folder):
        names = [name for path in sorted(place.glob("*.yaml")) for name in _read_task_names(path)]
        if names:
            return LocalTasks(place, tuple(dict.fromkeys(names)))
    return None


def _read_task_names(path: Path) -> list[str]:
    """The name of a task; only its line is read, since such files hold tags that YAML does not know."""
    if not path.is_file() or path.stat().st_size > MOST_TASK_BYTES:
        return []
    return [match[1] for match in TASK_NAME.finditer(path.read_text(encoding="utf-8", errors="replace"))][:1]


def format_first_file(
    base: FoundModel, experts: Sequence[FoundModel], tasks: LocalTasks | None, *, folder: Path
) -> str:
    """The text of the file; paths that lie on this machine are taken relative to `folder`."""
    lines = [
        "# Merge weights by measured score. Every key: docs/configuration.md.",
        _comment(f"base: {_format_path(base.path, folder)}", _describe_size(base.model)),
        "",
        "vectors:",
    ]
    for expert in experts:
        lines += _format_vector(expert, folder)

    lines += [
        "",
        "merge:",
        _comment("  method: task_arithmetic", "or ties, dare_linear, della, ...: docs/methods.md"),
        "",
        "evaluate:",
        *_format_tasks(tasks, folder),
        _comment("  batch_size: 8", "requests that the model sees at once"),
        _comment("  # items: {search: 100, select: 300}", "a task: to search by, and to choose by; the rest tests"),
        "",
        "search:",
        _comment("  trials: 100", "at most; it stops where more merges tell less than the items do"),
        _comment("  # budget_tokens: 2e6", "or at so many positions"),
    ]
    return "\n".join(lines) + "\n"


def _format_vector(expert: FoundModel, folder: Path) -> Iterator[str]:
    yield f"  {expert.name}:"
    yield f"    model: {_format_path(expert.path, folder)}"
    if expert.role == "instruction":
        yield _comment("    role: instruction", f"{expert.role_reason}; it carries no data, and gets no ratio")
    if expert.tokens is not None:
        yield _comment(f"    tokens: {expert.tokens}", "it was trained on, as its train.json says")
    low, high = VectorConfig.model_validate({"model": expert.path, "role": expert.role}).bounds
    yield _comment(f"    # range: [{low}, {high}]", "of its weight in a search; `weight:` is for `aftermix merge`")


def _format_tasks(tasks: LocalTasks | None, folder: Path) -> Iterator[str]:
    if tasks is None:
        yield _comment("  tasks: []", "names of lm-eval: `lm-eval ls tasks`")
        return
    yield _comment("  tasks: []", f"local: {', '.join(tasks.names)}; and those of `lm-eval ls tasks`")
    yield f"  include_path: {_format_path(str(tasks.folder), folder)}"


def _format_path(path: str, folder: Path) -> str:
    """A path relative to the file, a hub name as it is; quoted where YAML asks for it."""
    local = Path(path).expanduser()
    if local.exists():
        relative = os.path.relpath(local.absolute(), folder.absolute())
        path = relative if not relative.startswith(FAR) else str(local.absolute())
    return yaml.safe_dump(path, allow_unicode=True, width=10_000).removesuffix("\n...\n").rstrip("\n")


def _describe_size(model: Model) -> str:
    parameters = sum(info.elements for info in model.tensors.values() if info.name not in model.alias)
    types = sorted({str(info.dtype).removeprefix("torch.") for info in model.tensors.values() if info.mergeable})
    kind = next(iter(model.config.get("architectures") or []), None) or model.config.get("model_type", "model")
    return f"{kind}, {parameters / 1e6:,.1f} M parameters, {' and '.join(types)}"


def _comment(line: str, text: str) -> str:
    return f"{line.ljust(WIDTH)} # {text}"
