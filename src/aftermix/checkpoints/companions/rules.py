"""Files of a model folder that are no companions of its weights: everything else goes along.

A pattern without `/` is matched against every part of a path, one with `/` against the path itself. The order matters
for the reason alone: the first that fits is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

MAX_FILE_BYTES = 64 << 20
"""Of a file, and of all files of a subfolder together. Files of a tokenizer are larger at times, and go along."""

WEIGHTS = (
    *("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib"),
    *("*.msgpack", "*.h5", "*.hdf5", "*.keras", "*.onnx", "*.onnx_data*", "*.onnx.data", "*.gguf", "*.ggml"),
    *("*.npz", "*.npy", "*.ot", "*.tflite", "*.nemo", "*.mar", "*.engine", "*.plan", "*.pte", "*.distcp", "*.zarr"),
    *("*.mlpackage", "*.mlmodel", "*.mlmodelc", "openvino_model*.xml", "*.dduf", "*.llamafile", "*.tar", "*.tar.*"),
    *("*.tgz", "*.zip", "*.7z"),
)
"""Weights of any format, their indexes, and archives."""
TRAINING = (
    *("optimizer", "optimizer.*", "optimizer_*", "optimizer-*", "scheduler", "scheduler.*", "rng_state*"),
    *("random_states*", "trainer_state.json", "training_args.*", "training_params.json", "trainer_log.jsonl"),
    *("all_results.json", "train_results.json", "eval_results.json", "predict_results.json", "global_step*"),
    *("checkpoint-*", "pytorch_model_fsdp*", "zero_to_fp32.py", "latest", ".metadata"),
)
"""State and reports of a training."""
LOGS = ("events.out.tfevents*", "runs/*", "logs/*", "wandb/*", "mlruns/*", "tensorboard/*", "*.log", "nohup.out")
ADAPTERS = ("adapter_config.json",)
PACKING = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
"""Notes on packed weights; those of a result are not packed."""
RECORDS = (
    *("aftermix.yaml", "lock.json", "shares.json", "train.json", "losses.jsonl", "vector.json", "trials.jsonl"),
    *("best.json", "average.json", "design.json", "report.html", "mergekit_config.yml", "mergekit_config.yaml"),
)
"""Notes on the making of a model: a result has its own."""
REPLACED = ("README", "README.*", "readme.md", ".*", "__pycache__", "*.pyc", "__MACOSX", "Thumbs.db", "desktop.ini")
"""Cards, entries of git, caches and hidden files."""
CODE = ("*.py",)
"""Code, of which only what the model names goes along."""

LEFT_OUT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("card, caches and hidden files", REPLACED),
    ("state of a training", TRAINING),
    ("logs", LOGS),
    ("an adapter", ADAPTERS),
    ("how the model was packed or made", (*PACKING, *RECORDS)),
    ("weights in files that are not read", WEIGHTS),
)
"""Patterns by the reason that is told."""

TOKENIZER = (
    *("*token*", "*vocab*", "merges*.txt", "bpe*", "*.bpe", "*.codes", "*.spm", "*.model", "*.tiktoken", "tekken*"),
    *("dict*.txt", "normalizer.json", "chat_template*", "*.jinja", "additional_chat_templates"),
)
"""Files of a tokenizer and its chat templates."""
PROCESSOR = ("*processor*.json", "feature_extractor*.json")
"""Settings of what makes numbers of pictures and sounds."""


def fits(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of `patterns` fits `path`, written with `/`.

    >>> fits("1_Pooling/config.json", ["*.json"]), fits("runs/a/events", ["runs/*"]), fits("reruns/a", ["runs/*"])
    (True, True, False)
    """
    parts = path.split("/")
    return any(
        fnmatchcase(path, pattern) if "/" in pattern else any(fnmatchcase(part, pattern) for part in parts)
        for pattern in patterns
    )


def explain_exclusion(path: str) -> str | None:
    """The reason for which the file `path` of a model folder stays behind; None for a companion.

    >>> explain_exclusion("tekken.json"), explain_exclusion("checkpoint-500/config.json")
    (None, 'state of a training')
    """
    return next((reason for reason, patterns in LEFT_OUT if fits(path, patterns)), None)


def list_unwanted_patterns() -> list[str]:
    """Patterns of files that a download leaves on the hub: what stays behind, but for the weights that are read."""
    unread = [pattern for pattern in WEIGHTS if pattern not in ("*.safetensors", "*.index.json")]
    return [
        variant
        for pattern in (*REPLACED, *TRAINING, *LOGS, *unread)
        for variant in ((pattern,) if "/" in pattern else (pattern, f"*/{pattern}", f"{pattern}/*"))
    ]
