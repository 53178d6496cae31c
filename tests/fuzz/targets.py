"""Every target by name, with the inputs that it starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzz import differences, models, yamls

ANY = (b"", bytes(64), b"\x07" * 64, bytes(range(256)))


@dataclass(frozen=True)
class Target:
    """`one_input` raises `Violation` when a reader breaks a promise on these bytes."""

    one_input: Callable[[bytes], None]
    seeds: tuple[bytes, ...] = ANY
    share: float = 1.0
    """Inputs of a run, as a share of what each target gets."""


TARGETS = {
    "header_bytes": Target(models.header_bytes, tuple(models.header_seeds())),
    "header_json": Target(models.header_json),
    "index": Target(models.index),
    "folder_entries": Target(models.folder_entries),
    "distributed": Target(models.distributed),
    "config_json": Target(models.config_json),
    "merge_job": Target(models.merge_job, share=0.1),
    "adapter": Target(differences.adapter),
    "vector_file": Target(differences.vector_file),
    "yaml_text": Target(yamls.yaml_text, tuple(text.encode() for text in yamls.SEEDS)),
    "yaml_values": Target(yamls.yaml_values),
    "yaml_dumped": Target(yamls.yaml_dumped, share=0.3),
    "mergekit_text": Target(differences.mergekit_text, tuple(text.encode() for text in differences.RECIPES)),
    "mergekit_values": Target(differences.mergekit_values, share=0.5),
}
