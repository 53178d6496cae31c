"""The README.md of a merged model: what it was made from, how it was measured, how to use it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from aftermix.checkpoints.companions.model_use import ModelUse
from aftermix.checkpoints.hub import HUB_NAME, name_cached_repository
from aftermix.config import Config
from aftermix.config.places import Weight, describe_weight, is_zero
from aftermix.merging.recipe import MergeRecipe, Weights
from aftermix.report.number_format import POINTS, choose_scale
from aftermix.runs.reader import RunResult
from aftermix.runs.records import ScoresRecord, TaskScore


def build_model_card(
    config: Config,
    recipe: MergeRecipe,
    weights: Weights,
    *,
    name: str,
    best: RunResult | None = None,
    use: ModelUse | None = None,
) -> bytes:
    """The card as bytes. `best` is the content of a run's `best.json`; its test scores become evaluation results.

    `use` says how the model is loaded and what it is for: by default, it generates text. Metadata name the models of
    the hub alone: the name of a local folder may be that of another model there.
    """
    use = use or ModelUse()
    test = best.test if best else None
    models = [config.base] if config.base else []
    models += [config.vectors[vector].model for vector in sorted(weights) if not is_zero(weights[vector])]

    data = ModelCardData(
        base_model=list_hub_names(models),
        pipeline_tag=use.task,
        tags=["merge", "aftermix"],
        library_name=use.library,
        model_name=name if test else None,
        eval_results=_build_results(best, use.task or "other") if best else None,
        ignore_metadata_errors=False,
    )
    content = f"---\n{data.to_yaml()}\n---\n\n{_build_body(config, recipe, weights, name, test, use)}"
    return str(ModelCard(content)).encode()


def choose_public_name(model: str) -> str:
    """Name of a model in a card: its hub name, or the last part of a local folder, which betrays no path."""
    return _find_hub_name(model) or Path(model).name


def list_hub_names(models: Iterable[str]) -> list[str]:
    """Names on the hub of those of `models` that have one, each once; a folder of the hub's cache has its own."""
    return list(dict.fromkeys(name for model in models if (name := _find_hub_name(model)) is not None))


def _find_hub_name(model: str) -> str | None:
    if (cached := name_cached_repository(model)) is not None:
        return cached
    return model if HUB_NAME.match(model) and not Path(model).exists() else None


def _build_results(best: RunResult, task_type: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=task_type,
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            metric_type=best.metrics[task].partition(",")[0],
            metric_name=best.metrics[task],
            metric_value=round(float(entry.score), 4),
        )
        for task, entry in best.test.tasks.items()
    ]


def _build_body(
    config: Config, recipe: MergeRecipe, weights: Weights, name: str, test: ScoresRecord | None, use: ModelUse
) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in recipe.method.options.items())
    method = f"`{recipe.method.name}`" + (f" ({options})" if options else "")

    own = "".join(
        f"\n- {vector}: " + ", ".join(f"{key} {describe_weight(value)}" for key, value in settings.items())
        for vector, entry in config.vectors.items()
        if (settings := {key: getattr(entry, key) for key in ("density", "ratio") if getattr(entry, key) is not None})
    )

    rows = "\n".join(
        f"| {vector} | `{choose_public_name(entry.model)}` | {entry.role} "
        f"| {_describe_cell(weights.get(vector, 0.0))} |"
        for vector, entry in config.vectors.items()
    )
    settings_of_vectors = f"\nSettings of single vectors:\n{own}\n" if own else ""

    base = f" Base: `{choose_public_name(config.base)}`." if config.base else ""
    text = f"""# {name}

Merged by aftermix with {method}.{base}

| vector | model | role | merge weight |
|---|---|---|---|
{rows}
{settings_of_vectors}
`aftermix.yaml` in this folder is the recipe, `lock.json` the hashes of the inputs and the versions used.

{_show_code(use, name)}
"""
    return text + (_tabulate_scores(test) if test else "")


def _describe_cell(weight: Weight) -> str:
    """The weight in a cell of a table, whose bar is no part of a pattern."""
    return describe_weight(weight, ".4f").replace("|", "\\|")


def _show_code(use: ModelUse, name: str) -> str:
    """Lines that load the model, and what makes its inputs."""
    own = ", trust_remote_code=True" if use.runs_own_code else ""
    classes = {"model": use.model_class}
    if use.reader_class is not None:
        classes["tokenizer" if use.reader_class == "AutoTokenizer" else "processor"] = use.reader_class
    calls = [f'{variable} = {each}.from_pretrained("{name}"{own})' for variable, each in classes.items()]
    blocks = [[f"from transformers import {', '.join(sorted(classes.values()))}", "", *calls]]

    if use.library == "peft":
        call = f'model = {use.model_class}.from_pretrained("{name}")'
        blocks = [[f"from peft import {use.model_class}", "", call]]

    if use.library == "sentence-transformers":
        call = f'model = SentenceTransformer("{name}"{own})'
        blocks.insert(0, ["from sentence_transformers import SentenceTransformer", "", call])
    return "\n\n".join("\n".join(["```python", *block, "```"]) for block in blocks)


def _format_score(entry: TaskScore) -> str:
    """Cells of score and interval: a share in points, another score in its own unit."""
    scale = choose_scale([entry.score])
    if entry.interval is None:
        return f"{scale.format_plain(entry.score)} | none"
    low, high = (scale.format_plain(end) for end in entry.interval)
    return f"{scale.format_plain(entry.score)} | {low} {'-' if scale == POINTS else 'to'} {high}"


def _tabulate_scores(test: ScoresRecord) -> str:
    rows = "\n".join(f"| {task} | {_format_score(entry)} | {entry.items} |" for task, entry in test.tasks.items())
    heading = "\n## Scores on test items that neither the search nor the selection saw\n\n"
    return f"{heading}| task | score | 95 % interval | items |\n|---|---|---|---|\n{rows}\n"
