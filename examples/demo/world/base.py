"""Train the base: a small Llama on general English and a thin slice of each expert domain, to a plateau."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from world.splits import EXPERT_DOMAINS, GENERAL, Split

# B rows of a batch, T tokens of a row, V vocabulary
ROWS, CONTEXT = 16, 256
SHARE_OF_SLICE = 0.02  # of the base's tokens, per expert domain
PEAK, FLOOR, WARM_UP = 3e-3, 0.01, 0.02
REPORT_STEPS = 200


def train_base(
    splits: Mapping[str, Split],
    tokenizer: PreTrainedTokenizerFast,
    *,
    budget_tokens: int,
    seed: int,
    device: str,
    autocast: bool,
    compile_model: bool,
) -> LlamaForCausalLM:
    """AdamW (0.9, 0.95), weight decay 0.1, clipping at 1, cosine to 1 % of the peak; random packed windows."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_configuration(tokenizer)).to(device)
    streams = _streams(splits, tokenizer)
    steps = budget_tokens // (ROWS * CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    draws = torch.Generator().manual_seed(seed)
    forward = torch.compile(model) if compile_model else model
    started = time.monotonic()
    losses: list[float] = []
    for step in range(1, steps + 1):
        ids_BT = _batch(streams, draws).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            logits_BTV = forward(ids_BT).logits
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), ids_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % REPORT_STEPS == 0 or step == steps:
            recent = sum(losses[-REPORT_STEPS:]) / len(losses[-REPORT_STEPS:])
            print(f"step {step}/{steps}  loss {recent:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    return model


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The whole folder, weights in bfloat16."""
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _configuration(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _streams(splits: Mapping[str, Split], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """One long row of tokens per domain, documents ended by the end-of-text token."""
    texts = {domain: list(splits[domain].slice.values()) for domain in EXPERT_DOMAINS}
    texts[GENERAL] = list(splits[GENERAL].main.values())
    streams = {}
    for domain, documents in texts.items():
        rows = tokenizer(documents, add_special_tokens=False)["input_ids"]
        streams[domain] = torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])
    return streams


def _batch(streams: Mapping[str, torch.Tensor], draws: torch.Generator) -> torch.Tensor:
    rows = []
    for _ in range(ROWS):
        ticket = int(torch.rand((), generator=draws).item() / SHARE_OF_SLICE)
        stream = streams[EXPERT_DOMAINS[ticket] if ticket < len(EXPERT_DOMAINS) else GENERAL]
        start = int(torch.randint(len(stream) - CONTEXT, (), generator=draws).item())
        rows.append(stream[start : start + CONTEXT])
    return torch.stack(rows)


def _rate(progress: float) -> float:
    if progress < WARM_UP:
        return progress / WARM_UP
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
