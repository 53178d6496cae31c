"""Names by which vLLM finds the engine's own side, without an import of it."""

from __future__ import annotations

BACKEND = "aftermix"
"""Name of the registered engine of vLLM's native weight transfer."""
WORKER = "aftermix.evaluation.engines.vllm.exchange.MergeWorker"
"""Class whose methods vLLM's workers get besides their own."""
