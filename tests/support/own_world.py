"""Tiny encoders and a scorer of one's own: which of three texts is nearest to a query, by cosines of mean vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SCORER = """
import torch

WORDS = ("the", "sum", "of", "numbers", "is", "even", "and", "answer", "one", "these")
ASKED = []


def items():
    return {"near": [f"n{number}" for number in range(40)], "far": list(range(30))}


def score(model, tokenizer, items):
    ASKED.append({task: list(ids) for task, ids in items.items()})
    return {task: score_task(model, tokenizer, task, ids) for task, ids in items.items()}


def score_task(model, tokenizer, task, ids):
    scores, likelihoods, gold = [], [], []
    for each in ids:
        query, choices, right = make_item(task, int(str(each).lstrip("n")))
        similar = embed(model, tokenizer, [query, *choices])
        likelihood = torch.log_softmax(4 * similar, 0).tolist()
        likelihoods.append(likelihood)
        scores.append(float(max(range(3), key=likelihood.__getitem__) == right))
        gold.append(right)
    return {"scores": scores, "loglikelihoods": likelihoods, "gold": gold}


def make_item(task, number):
    draw = torch.Generator().manual_seed(number + (1000 if task == "far" else 0))
    texts = [[WORDS[index] for index in torch.randint(10, (5,), generator=draw)] for _ in range(3)]
    right = number % 3
    query = [*texts[right][:3], *(WORDS[index] for index in torch.randint(10, (2,), generator=draw))]
    return " ".join(query), [" ".join(text) for text in texts], right


def embed(model, tokenizer, texts):
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return means[1:] @ means[0]
"""
PLAIN = """
from scorer import embed, make_item


def items():
    return {"near": [f"n{number}" for number in range(40)]}


def score(model, tokenizer, items):
    similar = [embed(model, tokenizer, [*make_item("near", int(each[1:]))[0:1], "the sum"]) for each in items["near"]]
    return {"near": {"scores": [float(each[0]) for each in similar]}}


def whole(model, tokenizer, items):
    return {task: entry["scores"][0] for task, entry in score(model, tokenizer, items).items()}
"""
WHOLE = """
from scorer import score as score_items

SPLITS = []


def score(model, tokenizer, split):
    SPLITS.append(split)
    ids = [f"n{number}" for number in range(*{"search": (0, 12), "select": (12, 24), "test": (24, 40)}[split])]
    scores = score_items(model, tokenizer, {"near": ids})["near"]["scores"]
    return {"near": sum(scores) / len(scores), "constant": 1.0}
"""


def make_encoders(folder: Path, *, experts: tuple[str, ...] = ("a", "b")) -> dict[str, Path]:
    """A small BERT base and experts at a small random distance from it, with a tokenizer, in float32."""
    import torch
    from transformers import BertConfig, BertModel

    from conftest import VOCABULARY, save_tokenizer

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder / "base")
    for number, name in enumerate(experts, 1):
        expert = BertModel.from_pretrained(folder / "base")
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        expert.save_pretrained(folder / name)
    family = {name: folder / name for name in ("base", *experts)}
    for path in family.values():
        save_tokenizer(path)
    return family


def write_scorers(folder: Path) -> Path:
    """The files `scorer.py`, `plain.py` (scores alone) and `whole.py` (no items), and the first one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("scorer", SCORER), ("plain", PLAIN), ("whole", WHOLE)):
        (folder / f"{name}.py").write_text(text)
    return folder / "scorer.py"


def describe_search(family: Mapping[str, Path], scorer: Path | str, **sections: object) -> dict[str, object]:
    """Values of a file that searches between the encoders by `scorer`."""
    return {
        "base": str(family["base"]),
        "vectors": {name: {"model": str(path), "range": [0, 1]} for name, path in family.items() if name != "base"},
        "merge": {"exclude": []},
        "evaluate": {
            "function": str(scorer) if ":" in str(scorer) else f"{scorer}:score",
            "model_class": "AutoModel",
            "items": {"search": 12, "select": 9, "test": 8},
            "threads": 1,
        },
        "search": {"trials": 7, "startup": 6, "top": 2, "baselines": False},
        **sections,
    }
