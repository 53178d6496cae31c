"""Texts as a task, in bits per byte: against a slow twin, against lm-eval, and refused where they are none."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.config import EvaluateConfig
from aftermix.errors import EvaluationError
from aftermix.evaluation.documents import windows
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite
from aftermix.evaluation.items import SPLITS
from aftermix.jobs.evaluate.opening import read_task_texts
from aftermix.runs.item_scores import WeightedScores

WORDS = ("ball", "door", "lamp", "tree", "boat", "çeşme", "猫が好き", "🙂", "\n")
MAX_LENGTH = 24


def write_text(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + "."


TEXTS = [write_text(seed, words) for seed, words in enumerate([3, 60, 1, 11, 25, 7, 90, 2, 14, 30, 5, 18])]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Twelve documents as JSON lines, of lengths from a word to several windows."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": text, "id": n}) + "\n" for n, text in enumerate(TEXTS)))
    return path


def config_of_texts(path: Path, **options: Any) -> EvaluateConfig:
    entry = {"name": "wiki", "text": str(path), "field": "body", **options.pop("entry", {})}
    common = {"batch_size": 3, "threads": 1, "max_length": MAX_LENGTH, "items": {"search": 5, "select": 4}}
    return EvaluateConfig.model_validate({"tasks": [entry], **common, **options})


def open_texts(config: EvaluateConfig, model: Path, tokenizer: Path) -> tuple[TaskSuite, HuggingFaceEngine]:
    suite = TaskSuite.build(config, texts=read_task_texts(config))
    return suite, HuggingFaceEngine.open(model, tokenizer_folder=tokenizer, config=config)


def score_slowly(model: Path, tokenizer: Path, text: str, *, max_length: int) -> float:
    """The slow twin: each token by a forward pass of its own over what stands before it in its window."""
    live, tokens = (
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(tokenizer),
    )
    ids = tokens(text, add_special_tokens=False)["input_ids"]
    total, begin = 0.0, 0
    while begin < len(ids):
        end = min(begin + max_length, len(ids))
        first = [tokens.bos_token_id] if begin == 0 else ids[max(0, end - max_length - 1) : begin]
        for place in range(begin, end):
            with torch.no_grad():
                logits = live(input_ids=torch.tensor([[*first, *ids[begin:place]]])).logits[0, -1].double()
            total += float(logits.log_softmax(-1)[ids[place]])
        begin = end
    return total


def test_a_document_has_the_log_likelihood_of_its_tokens_in_windows(
    texts: Path, model_a: Path, tokenizer_folder: Path
) -> None:
    suite, engine = open_texts(config_of_texts(texts), model_a, tokenizer_folder)
    scores, bits, sizes = suite.evaluate(engine.lm, "search", keep=True), [], []
    assert scores.answers is not None
    for item, found in zip(suite.tasks["wiki"].search, scores.answers["wiki"].loglikelihood, strict=True):
        text = TEXTS[int(item.rpartition("/")[2])]
        expected = score_slowly(model_a, tokenizer_folder, text, max_length=MAX_LENGTH)
        assert float(found) == pytest.approx(expected, abs=1e-4, rel=2e-7)
        bits.append(-expected / math.log(2))
        sizes.append(len(text.encode()))

    assert any(size > 4 * MAX_LENGTH for size in sizes)
    of_items = scores.items["wiki"]
    assert isinstance(of_items, WeightedScores)
    assert of_items.weights == tuple(map(float, sizes))
    assert list(of_items) == pytest.approx([-bit / size for bit, size in zip(bits, sizes, strict=True)], abs=1e-5)
    assert scores.scores["wiki"] == pytest.approx(-sum(bits) / sum(sizes), abs=1e-5)
    table = suite.tabulate_requests(engine.lm)["wiki"]
    assert (table.kind, table.metric, table.length) == ("reference", "bits_per_byte,none", "bytes")
    assert table.splits["search"].bytes_R.tolist() == sizes


def test_it_is_the_bits_per_byte_of_lm_eval(
    texts: Path, model_a: Path, tokenizer_folder: Path, tmp_path: Path, add_task_to: Any
) -> None:
    """A YAML file of lm-eval over the same documents: the same number there, here by that file, and by one line."""
    add_task_to(
        tmp_path,
        "by_yaml",
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {texts}}}}}\ntest_split: test\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: body\n',
    )
    entry = {"task": "by_yaml", "metric": "bits_per_byte"}
    config = config_of_texts(texts, tasks=[entry], include_path=str(tmp_path))
    suite, engine = open_texts(config, model_a, tokenizer_folder)
    ours = [suite.evaluate(engine.lm, split).items["by_yaml"] for split in SPLITS]
    total = sum(np.dot(scores, scores.weights) for scores in ours if isinstance(scores, WeightedScores))

    found = lm_eval.simple_evaluate(
        "hf",
        model_args={
            "pretrained": str(model_a),
            "tokenizer": str(tokenizer_folder),
            "max_length": MAX_LENGTH,
            "dtype": "float32",
        },
        tasks=["by_yaml"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
    )
    expected = found["results"]["by_yaml"]["bits_per_byte,none"]
    assert -total / sum(len(text.encode()) for text in TEXTS) == pytest.approx(expected, abs=1e-5)

    lined, _ = open_texts(config_of_texts(texts, items={"search": 10, "select": 1}), model_a, tokenizer_folder)
    parts = [lined.evaluate(engine.lm, split).items["wiki"] for split in SPLITS]
    again = sum(np.dot(scores, scores.weights) for scores in parts if isinstance(scores, WeightedScores))
    assert again == pytest.approx(total, rel=1e-6)


def test_other_metrics_of_texts_are_refused_and_bits_per_byte_offered(
    texts: Path, tmp_path: Path, add_task_to: Any
) -> None:
    add_task_to(
        tmp_path,
        "by_yaml",
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {texts}}}}}\ntest_split: test\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: body\n',
    )
    with pytest.raises(
        EvaluationError,
        match="found 'word_perplexity': it is not a mean over items. Set `metric` to one of: bits_per_byte.",
    ):
        TaskSuite.build(config_of_texts(texts, tasks=["by_yaml"], include_path=str(tmp_path)))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_passes_take_what_is_planned(
    texts: Path, model_a: Path, tokenizer_folder: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither batches nor a limit on logits move a score; positions are those of the plan."""
    suite, engine = open_texts(config_of_texts(texts, batch_size=batch_size), model_a, tokenizer_folder)
    whole = suite.evaluate(engine.lm, "test")
    before = engine.lm.computed_positions
    again = suite.evaluate(engine.lm, "test")
    windows_of = engine.lm.find_windows(suite.list_requests("test", engine.lm)["wiki"])
    assert engine.lm.computed_positions - before == windows_of.chosen.plan.positions
    assert again.items == whole.items

    monkeypatch.setattr(windows, "MOST_LOGITS", 320 * MAX_LENGTH)
    narrow, other = open_texts(config_of_texts(texts, batch_size=batch_size), model_a, tokenizer_folder)
    assert narrow.evaluate(other.lm, "test").scores["wiki"] == pytest.approx(whole.scores["wiki"], abs=1e-6)
    assert (
        max(
            each.tokens_BT.shape[0]
            for each in other.lm.find_windows(narrow.list_requests("test", other.lm)["wiki"]).chosen.plan.batches
        )
        == 1
    )


def test_some_places_have_the_scores_of_all(texts: Path, model_a: Path, tokenizer_folder: Path) -> None:
    suite, engine = open_texts(config_of_texts(texts), model_a, tokenizer_folder)
    whole, part = suite.evaluate(engine.lm, "search"), suite.evaluate(engine.lm, "search", places={"wiki": [1, 3]})
    scores, all_scores = part.items["wiki"], whole.items["wiki"]
    assert isinstance(scores, WeightedScores)
    assert isinstance(all_scores, WeightedScores)
    assert [place for place, score in enumerate(scores) if score is not None] == [1, 3]
    assert scores[1] == pytest.approx(all_scores[1], abs=1e-6)
    assert scores.weights == (0.0, all_scores.weights[1], 0.0, all_scores.weights[3], 0.0)


def test_equal_documents_of_two_tasks_stand_in_one_split(texts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS[6:], *map(write_text, range(50, 60), [9] * 10)])
    )
    entries = [{"name": "wiki", "text": str(texts), "field": "body"}, {"name": "other", "text": str(other)}]
    config = config_of_texts(texts, tasks=entries)
    suite = TaskSuite.build(config, texts=read_task_texts(config))
    splits: dict[str, set[str]] = {}
    bodies = {"wiki": TEXTS, "other": [json.loads(line)["text"] for line in other.read_text().splitlines()]}
    for task, items in suite.tasks.items():
        assert items.grouped == 6
        for split in SPLITS:
            for item in items.of(split):
                splits.setdefault(bodies[task][int(item.rpartition("/")[2])], set()).add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_texts_stay_as_they_are_under_a_chat_template_and_few_shots(
    texts: Path, model_a: Path, tokenizer_folder: Path
) -> None:
    plain, engine = open_texts(config_of_texts(texts), model_a, tokenizer_folder)
    config = config_of_texts(texts, apply_chat_template=True, num_fewshot=2, system_instruction="Be kind.")
    asked, _ = open_texts(config, model_a, tokenizer_folder)
    assert asked.evaluate(engine.lm, "search").items == plain.evaluate(engine.lm, "search").items
    assert asked.remarks == ()
    assert asked.fingerprint_tasks(engine.lm) == plain.fingerprint_tasks(engine.lm)


def test_a_changed_document_changes_the_fingerprint_and_another_path_does_not(texts: Path, tmp_path: Path) -> None:
    def hash_texts(path: Path) -> Any:
        config = config_of_texts(path)
        return TaskSuite.build(config, texts=read_task_texts(config)).fingerprint_tasks(None)["wiki"]

    before = hash_texts(texts)
    moved = texts.rename(tmp_path / "moved.jsonl")
    assert hash_texts(moved) == before
    moved.write_text(moved.read_text().replace("lamp", "lump", 1))
    after = hash_texts(moved)
    assert (after.requests, after.documents) != (before.requests, before.documents)


def read(*entries: dict[str, Any]) -> Any:
    return read_task_texts(EvaluateConfig.model_validate({"tasks": list(entries)}))


def test_documents_are_read_as_training_data_is(tmp_path: Path) -> None:
    """Plain files, JSON lines, parquet; a folder, a pattern; blanks left out and told; the first by a limit."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in {"a.txt": "one", "b.txt": " \n", "c.txt": "three", "d.txt": "four"}.items():
        (folder / name).write_text(text)
    parquet.write_table(pyarrow.table({"body": ["eins", "", None, "zwei", "drei"]}), tmp_path / "rows.parquet")
    found = read(
        {"name": "notes", "text": str(folder)},
        {"name": "some", "text": str(folder / "[acd].txt"), "limit": 2},
        {"name": "rows", "text": str(tmp_path / "rows.parquet"), "field": "body"},
    )
    assert {name: (each.texts, each.note) for name, each in found.items()} == {
        "notes": (("one", "three", "four"), "1 blank document left out"),
        "some": (("one", "three"), None),
        "rows": (("eins", "zwei", "drei"), "2 blank documents left out"),
    }
    config = EvaluateConfig.model_validate({"tasks": [{"name": "notes", "text": str(folder)}]})
    suite = TaskSuite.build(config, texts=read_task_texts(config))
    assert (
        suite.tasks["notes"].note
        == "only 3 items, fewer than the default counts need: search 1, select 1, test 1; 1 blank document left out"
    )


@pytest.mark.parametrize(
    ("content", "entry", "message"),
    [
        (None, {}, "task 'wiki': {path}: there is no such file. Correct `text:`; it is taken from"),
        (b"", {}, "task 'wiki': {path}: holds no document. Name files with documents."),
        (b'{"body": " "}\n{"body": ""}\n', {}, "task 'wiki': {path}: holds no text: 2 documents, all of them blank."),
        (
            b'{"text": "a"}\n',
            {},
            "task 'wiki': {path}, line 1: has no field 'body'; its fields: text. Set `field:` of the task",
        ),
        (b'{"body": ["a"]}\n', {}, "task 'wiki': {path}, line 1: expected text in 'body', found a list"),
        (b"\x00\x01\x02\x00", {}, "task 'wiki': {path}: holds NUL characters, so it is no text file"),
        (b"PAR1....", {}, "task 'wiki': {path}: is a parquet file, as its name does not say. Name it `.parquet`."),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None, entry: dict[str, Any], message: str) -> None:
    path = tmp_path / "given.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Exception) as caught:
        read({"name": "wiki", "text": str(path), "field": "body", **entry})
    assert str(caught.value).startswith(message.format(path=path))


@pytest.mark.parametrize("documents", [1, 2])
def test_fewer_documents_than_splits_are_refused(tmp_path: Path, documents: int) -> None:
    for number in range(documents):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    config = EvaluateConfig.model_validate({"tasks": [{"name": "book", "text": str(tmp_path)}]})
    with pytest.raises(EvaluationError) as caught:
        TaskSuite.build(config, texts=read_task_texts(config))
    assert str(caught.value) == (
        f"task 'book': expected 3 documents or more, one each to search, select and test on, found {documents} in "
        f"{tmp_path}. A plain text file is one document: name a folder or pattern of several, or JSON lines, one a "
        "line."
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "wiki", "text": "a.txt", "metric": "acc"}, "`metric` cannot stand beside `text`"),
        ({"name": "wiki", "text": "a.txt", "num_fewshot": 2}, "`num_fewshot` cannot stand beside `text`"),
        ({"task": "wiki", "field": "body"}, "`field` is of texts, whose files `text` names"),
        ({"name": "a/b", "text": "a.txt"}, "a task of texts is called by letters, digits"),
        ({"text": "a.txt"}, "Field required"),
        ({"name": "wiki", "text": "a.txt", "limit": 0}, "greater than 0"),
    ],
)
def test_keys_that_say_nothing_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig.model_validate({"tasks": [entry]})


def test_a_text_without_tokens_is_refused(model_a: Path, tokenizer_folder: Path, texts: Path) -> None:
    suite, engine = open_texts(config_of_texts(texts), model_a, tokenizer_folder)
    requests: Sequence[Any] = suite.list_requests("search", engine.lm)["wiki"]
    engine.lm.tok_encode = lambda *_, **__: []
    with pytest.raises(
        EvaluationError, match="task 'wiki', item .*: expected tokens of '.*', found that the tokenizer makes none"
    ):
        engine.lm.find_windows(requests)
