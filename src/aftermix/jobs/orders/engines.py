"""The engine that a file asks for, opened for the merges of a file."""

from __future__ import annotations

import pickle

from aftermix.checkpoints.model_files import find_tokenizer_folder
from aftermix.checkpoints.pool import ModelPool
from aftermix.config import EvaluateConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.vllm.engine import VllmEngine
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.jobs.orders.opened import OPENER, OpeningPlan
from aftermix.jobs.orders.order import FrameOrder

Engine = HuggingFaceEngine | VllmEngine


def open_engine(pool: ModelPool, config: EvaluateConfig, suite: EvaluationSuite, opening: OpeningPlan | None) -> Engine:
    """The engine with the frame's weights, and the tokenizer that the result will have.

    An engine that runs in processes of its own opens the models that `opening` says there. Raises
    :class:`EvaluationError` where there is nothing that it could open.
    """
    folder = find_tokenizer_folder(pool)
    if config.engine == "hf":
        return suite.open_engine(pool.frame, tokenizer_folder=folder, config=config)
    if opening is None:
        found = "expected hf for models that are not the vectors of one file, found vllm"
        raise EvaluationError("evaluate.engine", found, "Set `engine: hf`.")

    plan, first = pickle.dumps(opening), pickle.dumps(FrameOrder())
    return VllmEngine.open(pool.frame, tokenizer_folder=folder, config=config, opener=OPENER, plan=plan, first=first)
