"""`aftermix export`: a recipe, or what a run found, as a file for another tool."""

from __future__ import annotations

from pathlib import Path

from aftermix.checkpoints.formats.gguf import find_gguf_file
from aftermix.checkpoints.formats.lora.open import is_adapter
from aftermix.checkpoints.formats.vector_file import is_vector
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.open_model import open_model
from aftermix.command_end import join_command
from aftermix.config import Config
from aftermix.errors import AftermixError, ConfigError, Problem, join_place, refuse_if_any
from aftermix.files import write_atomically
from aftermix.jobs.export.output_place import refuse_output
from aftermix.jobs.merge.given_weights import refuse_missing_weights
from aftermix.mergekit.reading import load_recipe
from aftermix.mergekit.writing import translate_to_mergekit
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.records import MODEL_FOLDER

RECIPE = "aftermix.yaml"


def export_mergekit(source: Path, output: Path) -> list[str]:
    """Write the recipe in `source` as a recipe of mergekit to the new file `output`, and return the notes in it.

    `source` is a YAML file, a run folder (its winner) or a merged model's folder. Nothing is written when mergekit
    cannot express the recipe. Raises :class:`AftermixError`.
    """
    refuse_output(output, is_file=True)

    config = load_recipe(find_recipe_file(source))
    refuse_missing_weights(config, "merge")
    frame = _open_frame(config)
    names = list(frame.tensors) if frame is not None else None
    adapters = [name for name, vector in config.vectors.items() if is_adapter(Path(vector.model))]
    refuse_if_any(
        [problem for name, vector in config.vectors.items() for problem in _find_unreadable(name, vector.model)]
    )

    translation = translate_to_mergekit(config, tensors=names, dtype=_find_common_dtype(frame), adapters=adapters)
    write_atomically(output, translation.format_file())
    return translation.notes


def find_recipe_file(source: Path) -> Path:
    """The YAML file that `source` stands for.

    Raises :class:`ConfigError` for a folder without a recipe, and for a run without a winner.
    """
    if not source.is_dir():
        return source
    for file in (source / RECIPE, source / MODEL_FOLDER / RECIPE):
        if file.is_file():
            return file

    if (source / CONFIG_FILE).is_file():
        remedy = f"Finish it: {join_command('aftermix', 'search', '--resume', source)}"
        raise ConfigError(str(source), "is a run without a winner yet", remedy)
    raise ConfigError(str(source), f"holds no {RECIPE}", "Name a YAML file, a run folder or a merged model.")


def _open_frame(config: Config) -> Model | None:
    """The model that gives the result its tensors, where it is at hand: a recipe is also written without it."""
    names = [config.base] if config.base else [config.vectors[name].model for name in sorted(config.vectors)[:1]]
    try:
        return open_model(names[0]) if names and Path(names[0]).is_dir() else None
    except AftermixError:
        return None


def _find_unreadable(name: str, model: str) -> list[Problem]:
    """A model at hand in a form that mergekit has no reader for."""
    folder = Path(model)
    kind = "a vector folder" if is_vector(folder) else "a GGUF file" if find_gguf_file(folder) is not None else None
    remedy = "Name the model itself, or merge the vector alone into a model."
    return (
        [Problem(join_place("vectors", name), f"{model} is {kind}, which mergekit does not read", remedy)]
        if kind
        else []
    )


def _find_common_dtype(frame: Model | None) -> str | None:
    """The one type of all real tensors, or None."""
    kinds = (
        {str(info.dtype).removeprefix("torch.") for info in frame.tensors.values() if info.mergeable}
        if frame
        else set()
    )
    return kinds.pop() if len(kinds) == 1 else None
