"""The trainers that a mixture can be written for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aftermix.mixture.exports.axolotl import axolotl, check_axolotl
from aftermix.mixture.exports.interleave import check_interleave, interleave
from aftermix.mixture.exports.llamafactory import check_llamafactory, llamafactory
from aftermix.mixture.exports.megatron import megatron
from aftermix.mixture.exports.plan import Files, MixturePlan, Place
from aftermix.mixture.exports.streaming import streaming
from aftermix.mixture.exports.table import table
from aftermix.mixture.exports.trl import check_trl, trl


def _reads_its_own(_: Sequence[Place]) -> None:
    """Take any data: the consumer keeps them in a form of its own."""


@dataclass(frozen=True)
class Consumer:
    """A trainer, and the way in which it is told of a mixture."""

    write: Callable[[MixturePlan], Files]
    check: Callable[[Sequence[Place]], None] = _reads_its_own
    """Raises for data that the trainer cannot read, before anything is counted."""


CONSUMERS = {
    "megatron": Consumer(megatron),
    "interleave": Consumer(interleave, check_interleave),
    "llamafactory": Consumer(llamafactory, check_llamafactory),
    "axolotl": Consumer(axolotl, check_axolotl),
    "trl": Consumer(trl, check_trl),
    "streaming": Consumer(streaming),
    "csv": Consumer(table),
}
