"""The use of a merged model: the classes that load it, and the task, that its card names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aftermix.checkpoints.companions.code_files import AUTO_MAP
from aftermix.checkpoints.companions.sentence_modules import MODULES_FILE

ModelSettings = Mapping[str, object]
"""Content of a `config.json`."""
CAUSAL = "AutoModelForCausalLM"
"""Class that loads a model which generates."""
TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForSemanticSegmentation": "image-segmentation",
    "ForObjectDetection": "object-detection",
    "ForCTC": "automatic-speech-recognition",
}
"""Task on the hub by the end of a class's name."""
TOWERS = ("vision_config", "audio_config")
SPEECH = ("whisper", "speech_to_text", "moonshine", "speech-encoder-decoder")
PAIRED = ("clip", "siglip", "siglip2", "altclip", "chinese_clip", "align", "metaclip_2")
"""Families that hold pictures against words."""


@dataclass(frozen=True)
class ModelUse:
    """Part of a card on the use of a model."""

    model_class: str = CAUSAL
    reader_class: str | None = "AutoTokenizer"
    """Class that makes inputs; None where no file of one is there."""
    task: str | None = "text-generation"
    library: str = "transformers"
    runs_own_code: bool = False


def find_model_use(config: ModelSettings, files: Collection[str]) -> ModelUse:
    """The use of a model with this `config.json` and these files beside its weights."""
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else None
    auto_map = config.get(AUTO_MAP)
    own_code = isinstance(auto_map, dict)
    if architecture is None or architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return ModelUse(runs_own_code=own_code)

    library = "sentence-transformers" if MODULES_FILE in files else "transformers"
    model_class = _find_auto_class(auto_map) if isinstance(auto_map, dict) else architecture
    task, reader = _find_task(config, architecture, files), _find_reader(config, files)
    return ModelUse(model_class, reader, task, library, own_code)


def _find_auto_class(auto_map: ModelSettings) -> str:
    return next((name for name in auto_map if name.startswith("AutoModel")), "AutoModel")


def _find_task(config: ModelSettings, architecture: str, files: Collection[str]) -> str | None:
    family = str(config.get("model_type"))
    if MODULES_FILE in files:
        return "sentence-similarity"
    if architecture.endswith("ForConditionalGeneration"):
        if family in SPEECH:
            return "automatic-speech-recognition"
        towers = [tower for tower in TOWERS if isinstance(config.get(tower), dict)]
        return {(): "text-generation", ("vision_config",): "image-text-to-text"}.get(tuple(towers), "any-to-any")
    if family in PAIRED and architecture.endswith("Model"):
        return "zero-shot-image-classification"
    task = next((task for end, task in TASKS.items() if architecture.endswith(end)), None)
    if task is None and architecture.endswith("Model"):
        return "image-feature-extraction" if "image_size" in config else "feature-extraction"
    return task


def _find_reader(config: ModelSettings, files: Collection[str]) -> str | None:
    """The class that reads inputs: words, pictures or sounds, or several of these."""
    is_mixed = any(isinstance(config.get(tower), dict) for tower in TOWERS) or str(config.get("model_type")) in SPEECH
    sees = any("processor" in name and name.endswith(".json") for name in files)
    if is_mixed and sees:
        return "AutoProcessor"
    if any("token" in name or "vocab" in name for name in files) or not sees:
        return "AutoTokenizer"
    return "AutoImageProcessor" if "image_size" in config or "num_channels" in config else "AutoFeatureExtractor"
