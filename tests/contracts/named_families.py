"""Architecture families that people ask for by name, each as the configuration of a model of a few thousand parameters.

Hybrids of linear and full attention, mixtures of experts, models that see, hear or compare.
"""

from __future__ import annotations

from contracts.families import (
    DECODER,
    EXPERTS,
    IMAGE,
    IMAGE_TOKEN,
    MASKED,
    PAIRED,
    PHI,
    SMALL,
    SPOKEN,
    TIED_HEAD,
    TOKENS,
    UNTIED,
    Family,
)

SEEING, HEARING, COMPARING = (
    "AutoModelForImageTextToText",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForZeroShotImageClassification",
)
PIXELS = {"pixel_values": (1, 3, 16, 16)}

HYBRID = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
SHARED_EXPERT = EXPERTS | {"shared_expert_intermediate_size": 8}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "temporal_patch_size": 1,
    "out_hidden_size": 16,
    "num_position_embeddings": 16,
    "initializer_range": 0.2,
}
QWEN_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": IMAGE_TOKEN + 1,
    "vision_start_token_id": IMAGE_TOKEN + 2,
    "vision_end_token_id": IMAGE_TOKEN + 3,
}
QWEN_INPUTS = {"pixel_values": (4, 48), "image_grid_thw": [[1, 2, 2]]}
QWEN_SEES = (
    "model.visual.patch_embed.proj.bias",
    "model.visual.patch_embed.proj.weight",
    "model.visual.pos_embed.weight",
)
NESTED = "model.language_model.embed_tokens.weight"
OUTER = ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}

ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {"num_key_value_heads": 2, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
LAYERED = {"vocab_size_per_layer_input": TOKENS, "hidden_size_per_layer_input": 4}
LAYERED_TABLES = ("model.embed_tokens.weight", "model.embed_tokens_per_layer.weight")
GEMMA3N = (
    DECODER
    | LAYERED
    | {"num_hidden_layers": 3, "num_kv_shared_layers": 1, "laurel_rank": 2, "altup_num_inputs": 2}
    | {"layer_types": ["sliding_attention", "full_attention", "full_attention"], "intermediate_size": [32] * 3}
    | {"activation_sparsity_pattern": [0.5, 0.0, 0.0]}
)
GEMMA4 = DECODER | {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 8}
LLAMA4 = (
    DECODER
    | {"intermediate_size": 8, "intermediate_size_mlp": 32, "num_local_experts": 4}
    | {"interleave_moe_layer_step": 2, "attention_chunk_size": 8}
)
VISION = SMALL | IMAGE | {"num_hidden_layers": 1}
STRIPES = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}

NAMED: dict[str, Family] = {
    "qwen3_next": Family("qwen3_next", DECODER | HYBRID | SHARED_EXPERT, UNTIED, fused=True),
    "qwen3_5_text": Family("qwen3_5_text", DECODER | HYBRID | {"tie_word_embeddings": True}, UNTIED[1:], TIED_HEAD),
    "qwen3_5": Family(
        "qwen3_5",
        {
            "text_config": DECODER | HYBRID | {"tie_word_embeddings": True, "model_type": "qwen3_5_text"},
            "vision_config": QWEN_VISION,
            "tie_word_embeddings": True,
            **QWEN_TOKENS,
        },
        (NESTED, *QWEN_SEES),
        {"lm_head.weight": NESTED},
        loader=SEEING,
        further=QWEN_INPUTS,
        image_tokens=1,
    ),
    "qwen3_5_moe": Family(
        "qwen3_5_moe",
        {
            "text_config": DECODER | HYBRID | SHARED_EXPERT | {"model_type": "qwen3_5_moe_text"},
            "vision_config": QWEN_VISION,
            **QWEN_TOKENS,
        },
        ("lm_head.weight", NESTED, *QWEN_SEES),
        loader=SEEING,
        further=QWEN_INPUTS,
        image_tokens=1,
        fused=True,
    ),
    "qwen3_vl": Family(
        "qwen3_vl",
        {
            "text_config": DECODER | {"model_type": "qwen3_vl_text", "rope_parameters": MROPE},
            "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]},
            "tie_word_embeddings": True,
            **QWEN_TOKENS,
        },
        (NESTED, *QWEN_SEES),
        {"lm_head.weight": NESTED},
        loader=SEEING,
        further=QWEN_INPUTS,
        image_tokens=1,
    ),
    "internvl": Family(
        "internvl",
        {
            "text_config": PHI | {"model_type": "qwen2"},
            "vision_config": VISION | {"image_size": [16, 16], "patch_size": [8, 8]},
            "image_token_id": IMAGE_TOKEN,
            "image_seq_length": 1,
            "tie_word_embeddings": False,
        },
        (
            *OUTER,
            "vision_tower.embeddings.cls_token",
            "vision_tower.embeddings.patch_embeddings.projection.bias",
            "vision_tower.embeddings.patch_embeddings.projection.weight",
            "vision_tower.embeddings.position_embeddings",
        ),
        loader=SEEING,
        further=PIXELS,
        image_tokens=1,
    ),
    "gemma3n_text": Family("gemma3n_text", GEMMA3N, LAYERED_TABLES, TIED_HEAD),
    "gemma4_text": Family("gemma4_text", GEMMA4 | LAYERED, LAYERED_TABLES, TIED_HEAD),
    "gemma4_moe": Family(
        "gemma4_text",
        GEMMA4
        | {"hidden_size_per_layer_input": 0, "enable_moe_block": True}
        | {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8},
        UNTIED[1:],
        TIED_HEAD,
    ),
    "gemma4": Family(
        "gemma4",
        {
            "text_config": GEMMA4 | LAYERED | {"model_type": "gemma4_text"},
            "vision_config": VISION
            | {"num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16, "pooling_kernel_size": 2},
            "audio_config": None,
            "image_token_id": IMAGE_TOKEN,
            **{
                key: IMAGE_TOKEN + place
                for place, key in enumerate(
                    ("boi_token_id", "eoi_token_id", "video_token_id", "audio_token_id", "boa_token_id"), start=1
                )
            },
            "eoa_token_index": IMAGE_TOKEN + 6,
        },
        (
            NESTED,
            "model.language_model.embed_tokens_per_layer.weight",
            "model.vision_tower.patch_embedder.input_proj.weight",
            "model.vision_tower.patch_embedder.position_embedding_table",
        ),
        {"lm_head.weight": NESTED},
        loader=SEEING,
        further={"pixel_values": (1, 4, 192), "image_position_ids": [[[0, 0], [0, 1], [1, 0], [1, 1]]]},
        image_tokens=1,
    ),
    "deepseek_v2": Family("deepseek_v2", PHI | ROUTED | LATENT | {"q_lora_rank": None}, UNTIED, fused=True),
    "deepseek_v3": Family("deepseek_v3", PHI | ROUTED | LATENT | {"q_lora_rank": 8}, UNTIED, fused=True),
    "glm4": Family("glm4", DECODER, UNTIED),
    "glm4_moe": Family("glm4_moe", DECODER | ROUTED | {"use_qk_norm": True}, UNTIED, fused=True),
    "llama4_text": Family("llama4_text", LLAMA4, UNTIED),
    "llama4": Family(
        "llama4",
        {
            "text_config": LLAMA4 | {"model_type": "llama4_text"},
            "vision_config": VISION
            | {"intermediate_size": 64, "vision_output_dim": 16}
            | {"projector_input_dim": 16, "projector_output_dim": 16},
            "image_token_index": IMAGE_TOKEN,
            "boi_token_index": IMAGE_TOKEN + 1,
            "eoi_token_index": IMAGE_TOKEN + 2,
        },
        (
            *OUTER,
            "vision_model.class_embedding",
            "vision_model.patch_embedding.linear.weight",
            "vision_model.positional_embedding_vlm",
        ),
        loader=SEEING,
        further=PIXELS,
        image_tokens=1,
    ),
    "bart": Family(
        "bart",
        SPOKEN
        | STRIPES
        | {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32, "init_std": 0.2}
        | {"decoder_start_token_id": 1},
        (
            "final_logits_bias",
            "model.decoder.embed_positions.weight",
            "model.encoder.embed_positions.weight",
            "model.shared.weight",
        ),
        {
            "model.encoder.embed_tokens.weight": "model.shared.weight",
            "model.decoder.embed_tokens.weight": "model.shared.weight",
            "lm_head.weight": "model.shared.weight",
        },
        loader=PAIRED,
    ),
    "whisper": Family(
        "whisper",
        SPOKEN
        | STRIPES
        | {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "num_mel_bins": 4, "init_std": 0.2}
        | {"max_source_positions": 8, "max_target_positions": 16, "decoder_start_token_id": 2}
        | {"begin_suppress_tokens": [3]},
        (
            "model.decoder.embed_positions.weight",
            "model.decoder.embed_tokens.weight",
            "model.encoder.embed_positions.weight",
        ),
        {"proj_out.weight": "model.decoder.embed_tokens.weight"},
        loader=HEARING,
        further={"input_features": (1, 4, 16)},
    ),
    "clip": Family(
        "clip",
        {"text_config": SMALL | SPOKEN | {"eos_token_id": 11}, "vision_config": VISION, "projection_dim": 8},
        (
            "text_model.embeddings.position_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
            "vision_model.embeddings.class_embedding",
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
        ),
        loader=COMPARING,
        further=PIXELS,
    ),
    "siglip": Family(
        "siglip",
        {"text_config": SMALL | SPOKEN, "vision_config": VISION},
        (
            "text_model.embeddings.position_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
            "vision_model.embeddings.patch_embedding.bias",
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
        ),
        loader=COMPARING,
        further=PIXELS,
    ),
    "modernbert": Family(
        "modernbert",
        SMALL
        | SPOKEN
        | {"cls_token_id": 0, "sep_token_id": 1, "local_attention": 4}
        | {"layer_types": ["full_attention", "sliding_attention"]},
        ("decoder.bias", "head.dense.weight", "head.norm.weight", "model.embeddings.tok_embeddings.weight"),
        {"decoder.weight": "model.embeddings.tok_embeddings.weight"},
        loader=MASKED,
    ),
}
