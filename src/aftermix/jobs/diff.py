"""`aftermix diff`: one expert and its base in, one vector folder out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aftermix.checkpoints.formats.vector_file import StoredType, VectorFacts
from aftermix.checkpoints.model import hold_equal, read_tensor
from aftermix.checkpoints.model_files import read_companion_files
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.vector_writer import VectorWriter
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import Problem, refuse_if_any
from aftermix.jobs.analysis.targets import advise_on_options, parse_prefixes
from aftermix.jobs.merge.command import refuse_output
from aftermix.jobs.merge.model_card import choose_public_name, list_hub_names

VECTOR = "expert"
UNLIKE_TOKENS = "A vector has its base's rows: name the expert itself in a file that says `merge: {vocabulary: base}`."


def diff(
    expert: str, *, base: str, output: Path, dtype: StoredType = "bfloat16", prefix: Sequence[str] = ()
) -> VectorFacts:
    """Store `expert` - `base` in the new folder `output`, usable wherever a model is beside the same base.

    It has the base's names; `prefix` maps the expert's own to them, as `OWN=BASE`.

    Raises :class:`AftermixError`, with nothing written, when the two do not align or hold NaN or Inf.
    """
    vector = VectorConfig(model=expert, prefix=parse_prefixes(prefix))
    with advise_on_options(UNLIKE_TOKENS):
        pool = open_pool(Config(base=base, vectors={VECTOR: vector}))
    refuse_output(output, pool)
    refuse_if_any(list(_find_moved_modules(pool)))

    # The expert speaks: a merge takes its tokenizer, chat template and generation settings from the vector's folder.
    companions = read_companion_files(dataclasses.replace(pool, instruction=VECTOR), dtype=None)
    config = json.dumps(pool.experts[VECTOR].config, indent=2, ensure_ascii=False) + "\n"

    return VectorWriter(pool, VECTOR, dtype).write(
        output,
        companions=companions | {"config.json": config.encode(), "README.md": _build_card(expert, base, output, dtype)},
        max_shard_bytes=MergeConfig().max_shard_bytes,
    )


def _find_moved_modules(pool: ModelPool) -> Iterator[Problem]:
    """Modules of sentence-transformers that training changed: a stored vector would lose that without a word."""
    for module in pool.modules:
        expert = module.experts[VECTOR]
        if any(
            not hold_equal(read_tensor(module.base, name), read_tensor(expert, name)) for name in module.base.tensors
        ):
            found = f"{module.name} differs from the base's, and a vector holds the model's tensors alone"
            yield Problem(pool.experts[VECTOR].label, found, "Name the expert itself where the vector was to stand.")


def _build_card(expert: str, base: str, output: Path, dtype: StoredType) -> bytes:
    from huggingface_hub import ModelCardData

    models = [choose_public_name(base), choose_public_name(expert)]
    hub, tags = list_hub_names([base, expert]), ["aftermix", "distribution-vector"]
    metadata = ModelCardData(base_model=hub, tags=tags).to_yaml()

    name = output.resolve().name
    text = f"""# {name}

What training changed: `{models[1]}` minus `{models[0]}`, stored as {dtype} by aftermix. This is no model. It stands in
the place of its expert beside the same base, for aftermix:

```yaml
base: {models[0]}
vectors:
  {name}: {{model: {name}, weight: 1.0}}
```

`vector.json` has the fingerprint of the base and the measured error.
"""
    return f"---\n{metadata}\n---\n\n{text}".encode()
