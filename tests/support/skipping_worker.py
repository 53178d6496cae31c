"""A worker of vLLM that can be told to leave out the next exchange, and to say that it was made."""

from __future__ import annotations

from typing import Any

from aftermix.evaluation.engines.vllm.exchange import MergeWorker


class SkippingWorker(MergeWorker):
    """The worker, with a planted fault."""

    def skip_next(self) -> None:
        """Hand nothing to vLLM at the next exchange."""
        receiver: Any = self.weight_transfer_engine.receiver

        def skip(number: int) -> None:
            receiver.held = number
            del receiver.receive

        receiver.receive = skip
