"""Folders as people have them: one split, one kind, no cards; what leaves a choice is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from aftermix.errors import TrainingError
from aftermix.training.data.examples import read_documents
from aftermix.training.data.files import choose_files, hash_data, list_data_parts


def write(folder: Path, *names: str) -> Path:
    """Files below `folder`, each with one document: its own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": name}]
        if path.suffix == ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif path.suffix in (".jsonl", ".json"):
            path.write_text(json.dumps(rows[0]) + "\n")
        else:
            path.write_text(name)
    return folder


HUB = [
    [f"data/{split}-00000-of-00001.parquet" for split in ("train", "test", "validation")],
    ["train.jsonl", "test.jsonl"],
    ["en/train-00000-of-00002.parquet", "en/train-00001-of-00002.parquet", "en/dev-00000-of-00001.parquet"],
    ["train/a.jsonl", "validation/a.jsonl", "test/train.jsonl"],
    ["wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"],
    ["c4-train.00000-of-00001.jsonl", "c4-validation.00000-of-00001.jsonl"],
    ["train_sft-00000-of-00001.parquet", "test_sft-00000-of-00001.parquet"],
    ["my-corpus-training-00000-of-00001.parquet", "my-corpus-eval-00000-of-00001.parquet"],
    ["train.parquet", "extra-00000-of-00001.parquet"],
]


@pytest.mark.parametrize("names", HUB, ids=[names[0] for names in HUB])
def test_a_folder_of_the_hub_is_its_train_split_alone(tmp_path: Path, names: list[str]) -> None:
    marks = ["README.md", "LICENSE", "dataset_infos.json", ".gitattributes", "_SUCCESS"]
    write(tmp_path, *names, *marks)
    training = sorted(name for name in names if "train" in name and not name.startswith("test/"))
    chosen = choose_files(tmp_path)
    assert [part.relative_to(tmp_path).as_posix() for part in chosen.parts] == training
    assert chosen.split in ("train", "train_sft")
    assert read_documents(tmp_path).texts == training
    assert {"README.md", "LICENSE"} <= set(chosen.left_out)
    assert str(chosen).startswith(f"the split {chosen.split} ({len(training)} file")
    before = hash_data(tmp_path)
    (tmp_path / "README.md").write_text("another card")
    assert hash_data(tmp_path) == before
    everything = read_documents(tmp_path, split="all").texts
    assert set(everything) == set(names)


def test_a_split_is_chosen_by_its_name_or_by_a_word_for_it(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "dev.jsonl", "test.jsonl")
    for split in ("validation", "dev", "val"):
        assert read_documents(tmp_path, split=split).texts == ["dev.jsonl"]
    with pytest.raises(TrainingError, match=r"has no split 'held_out'; its splits: validation, test, train. Correct"):
        list_data_parts(tmp_path, split="held_out")
    assert read_documents(tmp_path / "t*.jsonl").texts == ["train.jsonl"]
    assert read_documents(tmp_path / "te*.jsonl").texts == ["test.jsonl"]
    assert read_documents(tmp_path / "test.jsonl").texts == ["test.jsonl"]
    with pytest.raises(TrainingError, match=r"has no split 'dev'; its splits: none"):
        list_data_parts(tmp_path / "test.jsonl", split="dev")


REFUSED: dict[str, tuple[list[str], str]] = {
    "no train": (
        ["test-00000-of-00001.parquet", "validation-00000-of-00001.parquet"],
        "holds several splits, and none is `train`: test, validation. Set `split:` to one of them, or to `all`",
    ),
    "languages": (
        ["de-00000-of-00001.parquet", "en-00000-of-00001.parquet"],
        "holds several splits, and none is `train`: de, en.",
    ),
    "two trains": (
        [f"{name}-00000-of-00001.parquet" for name in ("test_gen", "train_gen", "train_sft")],
        "none is `train`: test_gen, train_gen, train_sft.",
    ),
    "strangers": (
        ["train.jsonl", "held.jsonl"],
        "holds files of the split train and files of no split: held.jsonl. Set `split:` to train, or to `all`",
    ),
    "one held out": (["test.jsonl", "web.jsonl"], "files of the split test and files of no split: web.jsonl"),
    "text beside lines": (
        ["a.jsonl", "notes.txt"],
        "holds files of several kinds: JSON lines (a.jsonl), plain text (notes.txt). Name one kind by a pattern, such",
    ),
    "two kinds of rows": (["a.json", "b.parquet"], "several kinds: JSON lines (a.json), parquet (b.parquet)"),
    "a script": (["load.py", "x/a.parquet"], "several kinds: parquet (a.parquet), plain text (load.py)"),
    "compressed twin": (["a.jsonl", "a.jsonl.gz"], "holds the same name in two forms: a.jsonl, a.jsonl.gz. Move one"),
    "two forms": (["train.json", "train.jsonl", "test.json"], "same name in two forms: train.json, train.jsonl"),
    "cards alone": (["README.md", "LICENSE"], "holds no data, only LICENSE, README.md. Name the folder of the data."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_leaves_a_choice_is_refused_by_name(tmp_path: Path, case: str) -> None:
    names, message = REFUSED[case]
    write(tmp_path, *names)
    for path in (tmp_path, *([tmp_path / "**/*.*"] if case != "cards alone" else [])):
        with pytest.raises(TrainingError) as caught:
            list_data_parts(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)


def test_the_remedies_can_be_followed(tmp_path: Path) -> None:
    write(tmp_path / "kinds", "a.jsonl", "b/c.jsonl", "notes.txt")
    with pytest.raises(TrainingError) as caught:
        list_data_parts(tmp_path / "kinds")
    pattern = caught.value.problem.remedy.split("`")[1]
    assert read_documents(Path(pattern)).texts == ["a.jsonl", "b/c.jsonl"]
    write(tmp_path / "strangers", "train.jsonl", "held.jsonl")
    assert read_documents(tmp_path / "strangers", split="train").texts == ["train.jsonl"]
    assert read_documents(tmp_path / "strangers", split="all").texts == ["held.jsonl", "train.jsonl"]


def test_texts_are_documents_whatever_their_names(tmp_path: Path) -> None:
    """Code and notes are no splits, and only the card at the top is none of the documents."""
    write(tmp_path, "README.md", "train.py", "test.py", "src/README.md", "tests/test_a.py", "LICENSE.txt")
    chosen = choose_files(tmp_path)
    assert read_documents(tmp_path).texts == ["src/README.md", "test.py", "tests/test_a.py", "train.py"]
    assert (chosen.split, chosen.left_out) == (None, ("LICENSE.txt", "README.md"))
    assert read_documents(tmp_path / "**/*.md").texts == ["README.md", "src/README.md"]
    assert read_documents(tmp_path / "README.md").texts == ["README.md"]
    write(tmp_path / "notes", "train.txt", "journey.txt")
    assert read_documents(tmp_path / "notes").texts == ["journey.txt", "train.txt"]


def test_names_that_only_begin_like_a_card_are_data(tmp_path: Path) -> None:
    write(tmp_path, "readme.jsonl", "license-texts.jsonl", "citation_network.jsonl")
    assert len(read_documents(tmp_path).texts) == 3
    write(tmp_path / "texts", "noticeboard.txt", "citations.txt")
    assert len(read_documents(tmp_path / "texts").texts) == 2


def save_splits(folder: Path, *names: str) -> Path:
    rows = {name: datasets.Dataset.from_list([{"text": name}]) for name in names}
    datasets.DatasetDict(rows).save_to_disk(folder)
    return folder


def test_a_saved_dataset_with_splits(tmp_path: Path) -> None:
    assert read_documents(save_splits(tmp_path / "a", "train", "test")).texts == ["train"]
    assert read_documents(save_splits(tmp_path / "b", "train_sft", "test_sft")).texts == ["train_sft"]
    assert read_documents(save_splits(tmp_path / "c", "en")).texts == ["en"]
    with pytest.raises(TrainingError, match="holds several splits, and none is `train`: de, en"):
        list_data_parts(save_splits(tmp_path / "d", "de", "en"))
    assert read_documents(tmp_path / "d", split="de").texts == ["de"]
    assert read_documents(tmp_path / "d", split="all").texts == ["de", "en"]
    assert read_documents(tmp_path / "a/test").texts == ["test"]
    assert str(choose_files(tmp_path / "a")) == "the split train (1 file); left out: split test (1 file)"


CARDS: list[tuple[Any, list[str]]] = [
    ([{"config_name": "default", "data_files": [{"split": "train", "path": "one.jsonl"}]}], ["one.jsonl"]),
    ([{"config_name": "x", "data_files": {"train": ["o*.jsonl"], "test": "two.jsonl"}}], ["one.jsonl"]),
    ([{"config_name": "x", "data_files": "sub/*.jsonl"}], ["sub/three.jsonl"]),
    (
        [
            {"config_name": "a", "data_files": "one.jsonl"},
            {"config_name": "b", "data_files": "two.jsonl", "default": True},
        ],
        ["two.jsonl"],
    ),
]


@pytest.mark.parametrize(("configs", "texts"), CARDS, ids=["default", "mapping", "path", "several"])
def test_the_card_says_which_files_are_of_a_split(tmp_path: Path, configs: Any, texts: list[str]) -> None:
    write(tmp_path, "one.jsonl", "two.jsonl", "sub/three.jsonl")
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n# Data\n")
    assert read_documents(tmp_path).texts == texts
    assert "of no split" in str(choose_files(tmp_path)) or "split test" in str(choose_files(tmp_path))


def test_several_configurations_of_a_card_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet")
    configs = [{"config_name": name, "data_files": f"{name}/train-*"} for name in ("main", "socratic")]
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    with pytest.raises(
        TrainingError, match="its card names several configurations, none of them the default: main, s"
    ) as caught:
        list_data_parts(tmp_path)
    pattern = caught.value.problem.remedy.split("`")[1]
    assert read_documents(Path(pattern)).texts == ["main/train-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    "card", ["", "# no head", "---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n"]
)
def test_a_card_that_says_nothing_is_no_fault_of_the_data(tmp_path: Path, card: str) -> None:
    write(tmp_path, "train.jsonl", "test.jsonl")
    (tmp_path / "README.md").write_text(card)
    assert read_documents(tmp_path).texts == ["train.jsonl"]
