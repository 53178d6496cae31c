"""Log-likelihoods of a few texts and greedy continuations, by vLLM or by transformers: the same model answers the same.

    python examples/hand_on/score_texts.py MODEL --engine transformers -o transformers.json
    VLLM/bin/python examples/hand_on/score_texts.py MODEL --engine vllm --against transformers.json

The second runs in vLLM's own environment, which needs nothing of aftermix. Both read the folder as it lies, in float32.
It ends with 1 where a text's mean log-likelihood of a token differs by more than 0.01 nats: another model was served.
With `--tiny FOLDER` a tiny model is written there and read by transformers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = (
    "Three apples and four pears are seven pieces of fruit.",
    "The train leaves at noon and arrives an hour later.",
    "def double(number):\n    return 2 * number\n",
    "Water boils at a hundred degrees.",
)
CONTINUED = 8
"""Tokens of a greedy continuation."""
WITHIN = 0.01
"""Nats a token; rounding of float32 in another order is a thousandth of it."""
DIMENSIONS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}

Answers = list[dict[str, Any]]
"""Of each text: `loglikelihood`, nats a token, and `continuation`, tokens."""


def answer_by_transformers(model: str, prompts: Sequence[Sequence[int]]) -> Answers:
    """Each prompt scored and continued by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    live = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    answers = []
    with torch.inference_mode():
        for tokens in prompts:
            inputs = torch.tensor([list(tokens)])
            logprobs = live(inputs).logits[0, :-1].log_softmax(dim=-1)
            scored = logprobs.gather(1, inputs[0, 1:, None])
            made = live.generate(inputs, max_new_tokens=CONTINUED, do_sample=False, eos_token_id=None)
            answers.append({"loglikelihood": float(scored.mean()), "continuation": made[0, len(tokens) :].tolist()})
    return answers


def answer_by_vllm(model: str, prompts: Sequence[Sequence[int]], *, memory: float) -> Answers:
    """Each prompt scored and continued by vLLM, which takes `memory` of the device's, or on CPUs of the machine's."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=model, dtype="float32", enforce_eager=True, max_model_len=128, gpu_memory_utilization=memory)
    settings = SamplingParams(temperature=0.0, max_tokens=CONTINUED, prompt_logprobs=0, ignore_eos=True)
    found = engine.generate([{"prompt_token_ids": list(tokens)} for tokens in prompts], settings)
    answers = []
    for tokens, made in zip(prompts, found, strict=True):
        scored = [made.prompt_logprobs[place][token].logprob for place, token in enumerate(tokens) if place]
        continuation = list(made.outputs[0].token_ids)
        answers.append({"loglikelihood": sum(scored) / len(scored), "continuation": continuation})
    return answers


def list_differences(ours: Answers, theirs: Answers) -> list[float]:
    """Of each text, how far the mean log-likelihoods of a token are apart."""
    return [abs(one["loglikelihood"] - other["loglikelihood"]) for one, other in zip(ours, theirs, strict=True)]


def write_tiny_model(folder: Path) -> Path:
    """A tiny Llama of random weights without a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **DIMENSIONS)).save_pretrained(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--memory", type=float, default=0.9, help="share of the memory that vLLM takes (default: 0.9)")
    parser.add_argument("-o", "--output", type=Path, help="write the answers here")
    parser.add_argument("--against", type=Path, help="answers of another engine")
    parser.add_argument("--tiny", type=Path, metavar="FOLDER", help="a tiny model, written there, by transformers")
    options = parser.parse_args(arguments)
    if not options.tiny and options.model is None:
        parser.error("name a model folder")

    if options.tiny:
        answers = answer_by_transformers(str(write_tiny_model(options.tiny / "hand-on")), [[1, 2, 3], [4, 5]])
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.model)
        prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
        by_vllm = options.engine == "vllm"
        answers = (
            answer_by_vllm(options.model, prompts, memory=options.memory)
            if by_vllm
            else answer_by_transformers(options.model, prompts)
        )

    if options.output:
        options.output.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    for entry in answers:
        print(f"{entry['loglikelihood']:.5f} nats a token, then {entry['continuation']}")
    if options.against is None:
        return 0

    theirs: Answers = json.loads(options.against.read_text(encoding="utf-8"))
    largest = max(list_differences(answers, theirs))
    alike = sum(one["continuation"] == other["continuation"] for one, other in zip(answers, theirs, strict=True))
    print(f"largest difference {largest:.2g} nats a token; {alike} of {len(answers)} continuations are the same")
    return 0 if largest <= WITHIN else 1


if __name__ == "__main__":
    if main():
        raise SystemExit(1)
