"""From what the user named to a model: the reader is chosen by what lies in the folder."""

from __future__ import annotations

from collections.abc import Callable

from aftermix.checkpoints.formats.configuration import settle_configuration
from aftermix.checkpoints.formats.distributed.model import find_distributed_folder, open_distributed
from aftermix.checkpoints.formats.distributed.naming import NameMap
from aftermix.checkpoints.formats.fp8 import dequantise
from aftermix.checkpoints.formats.gguf import find_gguf_file, open_gguf
from aftermix.checkpoints.formats.lora.open import find_adapter_subfolder, is_adapter, open_adapter
from aftermix.checkpoints.formats.vector_file import is_vector, open_vector
from aftermix.checkpoints.formats.weight_files import INDEX, SINGLE
from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.checkpoints.safe_files import find_outward_links, holds_file
from aftermix.errors import refuse_if_any


def open_model(
    model: str,
    *,
    base: Model | None = None,
    excluded: Callable[[str], bool] = lambda _: False,
    names: NameMap | None = None,
) -> Model:
    """Open the folder, GGUF file or hub name `model`; no weights are read, but a GGUF file is converted the first time.

    `base` is the model that an expert is read against, where it is stored as a difference; of what is `excluded` from
    the merge an adapter may have tensors that `base` lacks. `names` is the map of the file for a distributed
    checkpoint. Raises :class:`CheckpointError` for what no reader takes.
    """
    folder = locate(model)
    if folder.is_dir():
        refuse_if_any(find_outward_links(folder))
    if not is_vector(folder) and (inner := find_adapter_subfolder(folder, label=model)) is not None:
        refuse_if_any(find_outward_links(inner))
        folder = inner

    if is_vector(folder):
        return open_vector(folder, label=model, base=base)
    if is_adapter(folder):
        return open_adapter(folder, label=model, base=base, excluded=excluded)
    if (home := find_distributed_folder(folder)) is not None and not any(
        holds_file(folder / name) for name in (SINGLE, INDEX)
    ):
        return open_distributed(home, label=model, base=base, names=names)
    if (file := find_gguf_file(folder)) is not None:
        return open_gguf(file, label=model)
    return dequantise(settle_configuration(open_checkpoint(folder, label=model)))
