"""The live model that a scorer is handed: of the class that is named, filled with every merge, whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import aftermix
from aftermix.checkpoints.open_model import open_model
from aftermix.config import EvaluateConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from support.own_world import make_encoders

Family = Mapping[str, Path]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_encoders(tmp_path_factory.mktemp("encoders"))


def open_engine(folder: Path, model_class: str | None) -> HuggingFaceEngine:
    values = {"function": "e.py:score", "device": "cpu"} | ({"model_class": model_class} if model_class else {})
    return HuggingFaceEngine.open_scored(
        open_model(str(folder)), tokenizer_folder=folder, config=EvaluateConfig.model_validate(values)
    )


def test_a_merge_fills_an_encoder(encoders: Family) -> None:
    pool = aftermix.Pool(encoders["base"], {"a": encoders["a"], "b": encoders["b"]}, merge={"exclude": []})
    engine = open_engine(encoders["base"], "AutoModel")
    engine.load(pool.merge({"a": 1.0}).tensors())
    expected = AutoModel.from_pretrained(encoders["a"]).state_dict()
    assert engine.lm.model.state_dict().keys() == expected.keys()
    for name, tensor in engine.lm.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        engine.lm.model(input_ids=tokens)
    assert engine.lm.computed_positions == 6
    assert type(pool.merge({"a": 1.0}).model()).__name__ == "BertModel"


def test_a_head_that_the_class_leaves_out_is_told(untied_family: Family, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_engine(untied_family["base"], "AutoModel")
    told = caplog.text
    assert "AutoModel has no place for 1 of " in told
    assert "(lm_head.weight): they are merged, and decide no score" in told
    pool = aftermix.Pool(untied_family["base"], {"a": untied_family["a"]}, merge={"exclude": []})
    engine.load(pool.merge({"a": 0.5}).tensors())
    assert not hasattr(engine.lm.model, "lm_head")


@pytest.mark.parametrize(
    ("model_class", "message"),
    [
        ("BertForMaskedLM", r"tensors do not match BertForMaskedLM: cls.*Set `evaluate.model_class: BertModel`"),
        (None, r"tensors do not match AutoModelForCausalLM: .*Set `evaluate.model_class: BertModel`"),
        ("AutoModle", r"expected a class of models of transformers, found 'AutoModle'. Did you mean AutoModel"),
        ("AutoTokenizer", r"expected a class of models of transformers, found 'AutoTokenizer'"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(encoders: Family, model_class: str | None, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        open_engine(encoders["base"], model_class)


def test_a_model_without_a_tokenizer_comes_with_none(encoders: Family, tmp_path: Path) -> None:
    AutoModel.from_pretrained(encoders["base"]).save_pretrained(tmp_path)
    assert open_engine(tmp_path, "AutoModel").lm.tokenizer is None


def test_parameters_that_were_exchanged_or_written_are_found(encoders: Family) -> None:
    engine = open_engine(encoders["base"], "AutoModel")
    with torch.no_grad():
        next(engine.lm.model.parameters()).mul_(2)
    with pytest.raises(EvaluationError, match=r"my: has written into 1 parameters of the model"):
        engine.refuse_replaced("my")
    pool = aftermix.Pool(encoders["base"], {"a": encoders["a"]}, merge={"exclude": ["*"]})
    engine.load([], unchanged=frozenset(name for name, _ in pool.merge({"a": 0.0}).tensors()))
    expected = AutoModel.from_pretrained(encoders["base"]).state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in engine.lm.model.state_dict().items())
    engine.lm.model.half()
    with pytest.raises(EvaluationError, match=r"has exchanged parameters of the model, first"):
        engine.refuse_replaced("my")
