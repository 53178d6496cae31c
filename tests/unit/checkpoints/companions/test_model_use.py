"""Cards name models of the hub, and the class and the task of what was merged; no folder passes for a hub name."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from aftermix.checkpoints.companions.model_use import find_model_use
from aftermix.config import Config, VectorConfig
from aftermix.jobs.merge.command import merge
from aftermix.mergekit.references import name_vectors

VISION: dict[str, Any] = {"vision_config": {}}
USES: list[tuple[dict[str, Any], list[str], tuple[str, str | None, str | None]]] = [
    ({"architectures": ["LlamaForCausalLM"]}, [], ("AutoModelForCausalLM", "AutoTokenizer", "text-generation")),
    ({}, [], ("AutoModelForCausalLM", "AutoTokenizer", "text-generation")),
    (
        {"architectures": ["BertForSequenceClassification"]},
        ["vocab.txt"],
        ("BertForSequenceClassification", "AutoTokenizer", "text-classification"),
    ),
    ({"architectures": ["RobertaForMaskedLM"]}, [], ("RobertaForMaskedLM", "AutoTokenizer", "fill-mask")),
    ({"architectures": ["BertModel"]}, [], ("BertModel", "AutoTokenizer", "feature-extraction")),
    ({"architectures": ["BertModel"]}, ["modules.json"], ("BertModel", "AutoTokenizer", "sentence-similarity")),
    (
        {"architectures": ["ViTForImageClassification"], "image_size": 16},
        ["preprocessor_config.json"],
        ("ViTForImageClassification", "AutoImageProcessor", "image-classification"),
    ),
    (
        {"architectures": ["LlavaForConditionalGeneration"], **VISION},
        ["tokenizer.json", "processor_config.json"],
        ("LlavaForConditionalGeneration", "AutoProcessor", "image-text-to-text"),
    ),
    (
        {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"},
        ["preprocessor_config.json", "vocab.json"],
        ("WhisperForConditionalGeneration", "AutoProcessor", "automatic-speech-recognition"),
    ),
    (
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        ["tokenizer.json"],
        ("T5ForConditionalGeneration", "AutoTokenizer", "text-generation"),
    ),
    (
        {"architectures": ["CLIPModel"], "model_type": "clip", **VISION},
        ["tokenizer.json", "preprocessor_config.json"],
        ("CLIPModel", "AutoProcessor", "zero-shot-image-classification"),
    ),
]


@pytest.mark.parametrize(("config", "files", "expected"), USES)
def test_class_reader_and_task_are_those_of_the_model(
    config: Mapping[str, Any], files: list[str], expected: tuple[str, str | None, str | None]
) -> None:
    use = find_model_use(config, files)
    assert (use.model_class, use.reader_class, use.task) == expected
    assert use.library == ("sentence-transformers" if "modules.json" in files else "transformers")
    assert not use.runs_own_code


def test_a_model_with_code_of_its_own_is_loaded_by_it() -> None:
    names = {"AutoConfig": "configuration_x.X", "AutoModelForTokenClassification": "modeling_x.X"}
    use = find_model_use({"architectures": ["XForTokenClassification"], "auto_map": names}, [])
    assert (use.model_class, use.task, use.runs_own_code) == (names and list(names)[1], "token-classification", True)


SNAPSHOT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"


def test_a_card_has_the_hub_names_of_cached_models_and_no_others(family: dict[str, Path], tmp_path: Path) -> None:
    cached = {name: tmp_path / f"hub/models--org--tiny-{name}/snapshots/{SNAPSHOT}" for name in ("base", "b")}
    for name, place in cached.items():
        shutil.copytree(family[name], place)
    vectors = {"b": VectorConfig(model=str(cached["b"]), weight=0.5), "c": VectorConfig(model=str(family["c"]))}
    out = merge(Config(base=str(cached["base"]), vectors=vectors), tmp_path / "out")
    card = ModelCard((out / "README.md").read_text())
    assert card.data.base_model == ["org/tiny-base", "org/tiny-b"]
    assert card.data.pipeline_tag == "text-generation"
    assert "Base: `org/tiny-base`." in card.content
    assert "| c | `c` |" in card.content
    assert SNAPSHOT not in card.content

    local = merge(Config(base=str(family["base"]), vectors={"c": vectors["c"]}), tmp_path / "local")
    assert yaml.safe_load((local / "README.md").read_text().split("---")[1])["base_model"] == []
    assert name_vectors([str(place) for place in cached.values()]) == ["tiny-base", "tiny-b"]
