"""Architecture families of transformers, each as the configuration of a model of a few thousand parameters.

What a model of the family stores is `transformers`' own doing (`save_pretrained`), except for `before_5`: names and
buffers as files have them that earlier versions wrote and that people still take as their base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOKENS = 320
IMAGE_TOKEN = 300
CAUSAL, MASKED, PAIRED = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM"
IMAGES = "AutoModelForImageClassification"


@dataclass(frozen=True)
class Family:
    """A model type, its smallest configuration, and what an examination of its checkpoint has to find."""

    kind: str
    config: Mapping[str, Any]
    held: tuple[str, ...]
    """Tensors that a search leaves at the base's values by default: all that is no layer and no norm."""
    ties: Mapping[str, str] = field(default_factory=dict)
    """Second names of the embedding."""
    loader: str = CAUSAL
    dropped_prefix: str = ""
    """What every stored name begins with now and did not in `before_5`."""
    buffers: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Type and shape of buffers that `before_5` stores and that transformers ignores today."""
    passed: tuple[str, ...] = ()
    """Stored tensors that are no learned numbers: counters, flags, and what the model computes for itself."""
    remarks: tuple[str, ...] = ()
    """Stored tensors that transformers mentions as unexpected, and loads without."""
    fused: bool = False
    """Whether the live model holds in one parameter what the checkpoint stores in several."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Inputs beside the tokens: shapes of real numbers, or whole numbers as lists."""
    image_tokens: int = 0
    """Number of tokens that stand for an image."""


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
SPOKEN = {"vocab_size": TOKENS, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
DECODER = SMALL | SPOKEN | {"num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
IMAGE = {"image_size": 16, "patch_size": 8}
PHI = {key: value for key, value in DECODER.items() if key != "head_dim"}
GPT2 = SPOKEN | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.2}
NEOX = SMALL | SPOKEN
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_channels": 3, "layer_type": "basic"}

UNTIED = ("lm_head.weight", "model.embed_tokens.weight")
TIED_HEAD = {"lm_head.weight": "model.embed_tokens.weight"}

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", DECODER, UNTIED),
    "llama_tied": Family("llama", DECODER | {"tie_word_embeddings": True}, UNTIED[1:], TIED_HEAD),
    "mistral": Family("mistral", DECODER | {"sliding_window": 4}, UNTIED),
    "qwen2": Family("qwen2", PHI, UNTIED),
    "qwen3": Family("qwen3", DECODER | {"tie_word_embeddings": True}, UNTIED[1:], TIED_HEAD),
    "gemma3_text": Family("gemma3_text", DECODER, UNTIED[1:], TIED_HEAD),
    "gemma3_multimodal": Family(
        "gemma3",
        {
            "text_config": DECODER | {"model_type": "gemma3_text"},
            "vision_config": SMALL | IMAGE | {"model_type": "siglip_vision_model", "num_hidden_layers": 1},
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE_TOKEN,
            "boi_token_index": IMAGE_TOKEN + 1,
            "eoi_token_index": IMAGE_TOKEN + 2,
        },
        (
            "language_model.model.embed_tokens.weight",
            "vision_tower.embeddings.patch_embedding.bias",
            "vision_tower.embeddings.patch_embedding.weight",
            "vision_tower.embeddings.position_embedding.weight",
        ),
        {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"},
    ),
    "phi": Family("phi", PHI | {"partial_rotary_factor": 0.5}, ("lm_head.bias", *UNTIED)),
    "phi3": Family("phi3", PHI | {"original_max_position_embeddings": 32}, UNTIED),
    "gpt2": Family(
        "gpt2",
        GPT2,
        ("transformer.wpe.weight", "transformer.wte.weight"),
        {"lm_head.weight": "transformer.wte.weight"},
    ),
    "gpt2_before_5": Family(
        "gpt2",
        GPT2,
        ("wpe.weight", "wte.weight"),
        {"lm_head.weight": "wte.weight"},
        dropped_prefix="transformer.",
        buffers={
            "h.0.attn.bias": ("uint8", (1, 1, 32, 32)),
            "h.0.attn.masked_bias": ("float32", ()),
            "h.1.attn.bias": ("float32", (1, 1, 32, 32)),
        },
        passed=("h.0.attn.bias", "h.0.attn.masked_bias", "h.1.attn.bias"),
        remarks=("h.0.attn.masked_bias",),
    ),
    "gpt_neox": Family("gpt_neox", NEOX, ("embed_out.weight", "gpt_neox.embed_in.weight")),
    "gpt_neox_before_5": Family(
        "gpt_neox",
        NEOX,
        ("embed_out.weight", "gpt_neox.embed_in.weight"),
        buffers={
            "gpt_neox.layers.0.attention.bias": ("bool", (1, 1, 32, 32)),
            "gpt_neox.layers.0.attention.masked_bias": ("float32", ()),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": ("float32", (1,)),
        },
        passed=(
            "gpt_neox.layers.0.attention.bias",
            "gpt_neox.layers.0.attention.masked_bias",
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
        ),
    ),
    "mixtral": Family("mixtral", DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2}, UNTIED, fused=True),
    "qwen2_moe": Family("qwen2_moe", PHI | EXPERTS | {"shared_expert_intermediate_size": 8}, UNTIED, fused=True),
    "qwen3_moe": Family("qwen3_moe", DECODER | EXPERTS, UNTIED, fused=True),
    "gpt_oss": Family("gpt_oss", DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2}, UNTIED),
    "mamba": Family(
        "mamba",
        SPOKEN | {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "time_step_rank": 2},
        ("backbone.embeddings.weight",),
        {"lm_head.weight": "backbone.embeddings.weight"},
    ),
    "jamba": Family(
        "jamba",
        PHI
        | {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 2}
        | {"num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 2},
        UNTIED,
        fused=True,
    ),
    "rwkv": Family(
        "rwkv",
        SPOKEN | {"hidden_size": 16, "num_hidden_layers": 2, "context_length": 32, "rescale_every": 0},
        ("head.weight", "rwkv.embeddings.weight"),
    ),
    "opt": Family(
        "opt",
        SPOKEN
        | {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"max_position_embeddings": 32, "word_embed_proj_dim": 16, "init_std": 0.2},
        ("model.decoder.embed_positions.weight", "model.decoder.embed_tokens.weight"),
        {"lm_head.weight": "model.decoder.embed_tokens.weight"},
    ),
    "bloom": Family(
        "bloom",
        SPOKEN | {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.2},
        ("transformer.word_embeddings.weight",),
        {"lm_head.weight": "transformer.word_embeddings.weight"},
    ),
    "bert": Family(
        "bert",
        SMALL | SPOKEN,
        (
            "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.token_type_embeddings.weight",
            "bert.embeddings.word_embeddings.weight",
            "cls.predictions.bias",
            "cls.predictions.transform.LayerNorm.bias",
            "cls.predictions.transform.LayerNorm.weight",
            "cls.predictions.transform.dense.bias",
            "cls.predictions.transform.dense.weight",
        ),
        {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
        loader=MASKED,
    ),
    "t5": Family(
        "t5",
        {"vocab_size": TOKENS, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
        (
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "shared.weight",
        ),
        {f"{name}.weight": "shared.weight" for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")},
        loader=PAIRED,
    ),
    "vit": Family(
        "vit",
        {key: SMALL[key] for key in SMALL if key != "max_position_embeddings"} | IMAGE | {"num_labels": 3},
        (
            "classifier.bias",
            "classifier.weight",
            "vit.embeddings.cls_token",
            "vit.embeddings.patch_embeddings.projection.bias",
            "vit.embeddings.patch_embeddings.projection.weight",
            "vit.embeddings.position_embeddings",
        ),
        loader=IMAGES,
    ),
    "resnet": Family(
        "resnet",
        RESNET | {"num_labels": 3},
        ("classifier.1.bias", "classifier.1.weight"),
        loader=IMAGES,
        passed=(
            "resnet.embedder.embedder.normalization.num_batches_tracked",
            "resnet.encoder.stages.0.layers.0.layer.0.normalization.num_batches_tracked",
            "resnet.encoder.stages.0.layers.0.layer.1.normalization.num_batches_tracked",
            "resnet.encoder.stages.1.layers.0.layer.0.normalization.num_batches_tracked",
            "resnet.encoder.stages.1.layers.0.layer.1.normalization.num_batches_tracked",
            "resnet.encoder.stages.1.layers.0.shortcut.normalization.num_batches_tracked",
        ),
    ),
}
