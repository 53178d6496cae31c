"""The trainers that a mixture can be written for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aftermix.mixture.exports.axolotl import check_axolotl, write_axolotl
from aftermix.mixture.exports.interleave import check_interleave, interleave
from aftermix.mixture.exports.llamafactory import check_llamafactory, write_llamafactory
from aftermix.mixture.exports.megatron import write_megatron
from aftermix.mixture.exports.plan import DomainFiles, Files, MixturePlan
from aftermix.mixture.exports.streaming import write_streaming
from aftermix.mixture.exports.table import write_table
from aftermix.mixture.exports.trainers.megatron_bridge import write_megatron_bridge
from aftermix.mixture.exports.trainers.ms_swift import check_ms_swift, write_ms_swift
from aftermix.mixture.exports.trainers.olmo_core import write_olmo_core
from aftermix.mixture.exports.trl import check_trl, write_trl


def _accept_any(_: Sequence[DomainFiles]) -> None:
    """Take any data: the consumer keeps them in a form of its own."""


@dataclass(frozen=True)
class MixtureConsumer:
    """A trainer, and the way in which it is told of a mixture."""

    write: Callable[[MixturePlan], Files]
    check: Callable[[Sequence[DomainFiles]], None] = _accept_any
    """Raises for data that the trainer cannot read, before anything is counted."""


CONSUMERS = {
    "megatron": MixtureConsumer(write_megatron),
    "megatron-bridge": MixtureConsumer(write_megatron_bridge),
    "olmo-core": MixtureConsumer(write_olmo_core),
    "interleave": MixtureConsumer(interleave, check_interleave),
    "llamafactory": MixtureConsumer(write_llamafactory, check_llamafactory),
    "axolotl": MixtureConsumer(write_axolotl, check_axolotl),
    "trl": MixtureConsumer(write_trl, check_trl),
    "ms-swift": MixtureConsumer(write_ms_swift, check_ms_swift),
    "streaming": MixtureConsumer(write_streaming),
    "csv": MixtureConsumer(write_table),
}
