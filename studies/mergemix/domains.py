"""Domains, their sub-domains, and the lm-eval tasks of the mixture runs, all from the world's text.

Tasks are windows of the select documents. Test text is the world's, and is read by nothing that chooses a ratio.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import PreTrainedTokenizerFast

from aftermix.files import write_atomically, write_json
from aftermix.seeds import derived_seed
from studies.world.data import SELECT_SHARE, SPLIT_SEED, texts_of
from studies.world.demo import DEMO, Split, split, write_jsonl_gz
from studies.world.layout import World
from studies.world.sources import read_documents

DOMAINS = ("ja", "math", "code", "problems")
GENERAL = "en"
CAPABILITIES = (*DOMAINS, GENERAL)
"""What a mixture is to be good at: its domains, and what the base knew before."""
PARTS = 2
"""Sub-domains of a domain."""
WINDOW_TOKENS, WINDOWS = 128, 96
TINY_WINDOW_TOKENS = 16
MANIFEST = "domains.json"
"""Written last; says how many tokens each corpus and each sub-domain has."""


def make_domains(world: World, folder: Path) -> None:
    """Tasks, sub-domains, the base's own text and the sizes of all, once."""
    if (folder / MANIFEST).is_file():
        return
    documents = read_documents(world.folder / "packages")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEMO / "base")
    splits = {name: split(documents[name], seed=SPLIT_SEED) for name in CAPABILITIES}
    for name in CAPABILITIES:
        length = world.pick(WINDOW_TOKENS, tiny=TINY_WINDOW_TOKENS)
        write_task(folder / "tasks", name, windows(splits[name], tokenizer, length))
    for name in DOMAINS:
        for place, texts in enumerate(parts(texts_of(world.training_text(name)))):
            write_jsonl_gz(part_text(folder, name, place), texts)
    _write_text_of_bases(folder, splits)
    corpora = {name: _tokens(splits[name].main.values(), tokenizer) for name in DOMAINS}
    inner = {
        f"{name}-{place}": _tokens(texts_of(part_text(folder, name, place)), tokenizer)
        for name in DOMAINS
        for place in range(PARTS)
    }
    write_json(folder / MANIFEST, {"corpora": corpora, "parts": inner})


def windows(texts: Split, tokenizer: PreTrainedTokenizerFast, length: int) -> list[str]:
    """Stretches of `length` tokens of the documents that the world selects on, a document's first ones first."""
    order = sorted(texts.held_out, key=lambda name: derived_seed(SPLIT_SEED, "held out", name))
    chosen = [texts.held_out[name] for name in order[: int(SELECT_SHARE * len(order))]]
    rows = tokenizer(chosen, add_special_tokens=False)["input_ids"]
    starts = [range(0, len(row) - length + 1, length) for row in rows]
    cuts = [row[at : at + length] for row, places in zip(rows, starts, strict=True) for at in places]
    spelled = [tokenizer.decode(cut).strip() for cut in cuts]
    return sorted(spelled, key=lambda text: derived_seed(SPLIT_SEED, "window", text))[:WINDOWS]


def write_task(folder: Path, name: str, texts: Iterable[str]) -> None:
    """The lm-eval task `bits_NAME`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent / "tasks" / "neg_bits.py", folder)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    write_atomically(folder / f"bits_{name}.jsonl", "".join(lines))
    task = {
        "task": f"bits_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"bits_{name}.jsonl"}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "neg_bits", "aggregation": "mean", "higher_is_better": True}],
    }
    text = yaml.safe_dump(task, sort_keys=False) + "process_results: !function neg_bits.process_results\n"
    (folder / f"bits_{name}.yaml").write_text(text, encoding="utf-8")


def parts(texts: list[str]) -> list[list[str]]:
    """Two halves, equal in characters, along the direction in which TF-IDF of the texts varies most."""
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Characters and not words: Japanese does not separate them.
    counted: Any = TfidfVectorizer(analyzer="char", ngram_range=(2, 3), min_df=3, max_features=5000, sublinear_tf=True)
    reduced = TruncatedSVD(20, random_state=0).fit_transform(counted.fit_transform(texts))
    order = np.argsort(PCA(1, random_state=0).fit_transform(reduced)[:, 0])
    sizes = np.cumsum([len(texts[place]) for place in order])
    cut = int(np.searchsorted(sizes, sizes[-1] / PARTS))
    return [[texts[place] for place in sorted(half)] for half in (order[:cut], order[cut:])]


def part_text(folder: Path, domain: str, place: int) -> Path:
    """Training text of a sub-domain."""
    return folder / "texts" / f"{domain}-{place}.jsonl.gz"


def base_text(folder: Path, name: str) -> Path:
    """What a base is trained on: general text, and a thin slice of each domain."""
    return folder / "texts" / f"base-{name}.jsonl.gz"


def _write_text_of_bases(folder: Path, splits: dict[str, Split]) -> None:
    write_jsonl_gz(base_text(folder, GENERAL), splits[GENERAL].main.values())
    for name in DOMAINS[:3]:  # the demo's base has never seen the fourth
        write_jsonl_gz(base_text(folder, name), splits[name].slice.values())


def _tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> int:
    return sum(map(len, tokenizer(list(texts), add_special_tokens=False)["input_ids"]))
