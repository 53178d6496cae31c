"""Kept log-likelihoods: lm-eval's own numbers, from which every item's score follows; and what they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import SuiteScores, TaskSuite
from aftermix.evaluation.items import SPLITS
from aftermix.runs.answers.requests import SplitRequests, TaskRequests
from aftermix.runs.answers.rounds import join_answers, join_scores
from aftermix.runs.item_scores import average

WIDE = 'doc_to_choice: "{{choices}}"', "doc_to_choice: ['ππππ', '緑緑緑緑', 'qjx', 'y']"
"""Choices of unlike lengths, in characters and in bytes."""
METRICS = "  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}\n"


class Measured:
    """A suite with a live model, its requests and its answers on the search items."""

    def __init__(self, config: Any, model: Path, tokenizer: Path) -> None:
        self.suite = TaskSuite.build(config)
        self.engine = HuggingFaceEngine.open(model, tokenizer_folder=tokenizer, config=config)
        self.table = self.suite.tabulate_requests(self.engine.lm)
        self.scores: SuiteScores = self.suite.evaluate(self.engine.lm, "search", keep=True)

    def answers(self, task: str) -> Any:
        assert self.scores.answers is not None
        return self.scores.answers[task]

    def requests(self, task: str) -> SplitRequests:
        return self.table[task].splits["search"]


@pytest.fixture
def measure(tasks: Path, model_a: Path, tokenizer_folder: Path, config_of: Any, monkeypatch: Any) -> Any:
    monkeypatch.chdir(tasks)  # for lm-eval itself, which looks for data files here

    def run(*names: Any, **options: Any) -> Measured:
        return Measured(config_of(tasks, *names, **options), model_a, tokenizer_folder)

    return run


@pytest.fixture
def own(tasks: Path, task_texts: Any, add_task_to: Any, measure: Any) -> Any:
    """The task `own`: that of the folder named `like`, with texts replaced and lines added."""

    def run(like: str, *replaced: tuple[str, str], add: str = "", python: str = "", **options: Any) -> Measured:
        text = task_texts[like]
        for before, after in replaced:
            assert before in text
            text = text.replace(before, after)
        (tasks / "own.py").write_text(python)
        add_task_to(tasks, "own", text + add)
        task = {"task": "own", **{key: options.pop(key) for key in ("metric", "filter") if key in options}}
        return measure(task, **options)

    return run


def samples_of(measured: Measured, folder: Path, leaf: str) -> list[Any]:
    """lm-eval's own samples of the search items, in order."""
    numbers = [int(item.rpartition("/")[2]) for item in measured.suite.tasks[leaf].search]
    lm = measured.engine.lm
    plain = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4, backend="causal", max_length=512)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    results: Any = lm_eval.simple_evaluate(
        model=plain, tasks=[leaf], task_manager=manager, samples={leaf: numbers}, bootstrap_iters=0, log_samples=True
    )
    return sorted(results["samples"][leaf], key=lambda sample: sample["doc_id"])


def choose(measured: Measured, task: str, length: np.ndarray[Any, Any] | float) -> list[float]:
    """Scores of the items by the likeliest choice: log-likelihood over length."""
    requests, found = measured.requests(task), measured.answers(task).loglikelihood / length
    spans = zip(requests.offsets[:-1], requests.offsets[1:], requests.gold, strict=True)
    return [float(np.argmax(found[first:last]) == gold) for first, last, gold in spans]


@pytest.mark.parametrize("task", ["colours", "continue_colour"])
def test_values_are_those_of_lm_eval(tasks: Path, measure: Any, task: str) -> None:
    measured = measure({"task": task, "metric": "acc"})
    samples = samples_of(measured, tasks, task)
    answers = measured.answers(task)
    expected = [response[0] for sample in samples for response in sample["resps"]]
    assert answers.loglikelihood.dtype == np.float32
    assert answers.greedy.dtype == np.uint8
    assert np.allclose(answers.loglikelihood, [value for value, _ in expected], atol=2e-4)
    assert answers.greedy.tolist() == [int(greedy) for _, greedy in expected]


def test_items_of_a_group_follow_one_another_as_their_scores_do(measure: Any) -> None:
    measured = measure({"task": "both", "metric": "acc"})
    requests, items = measured.requests("both"), measured.suite.tasks["both"].search
    sizes = np.diff(requests.offsets).tolist()
    assert sizes == [4 if item.startswith("colours/") else 1 for item in items]
    assert set(sizes) == {1, 4}
    assert measured.table["both"].kind == "none"

    greedy, starts = measured.answers("both").greedy, requests.offsets[:-1]
    kept = [float(greedy[start]) for start, size in zip(starts, sizes, strict=True) if size == 1]
    assert kept == [
        score for item, score in zip(items, measured.scores.items["both"], strict=True) if item.startswith("continue")
    ]


@pytest.mark.parametrize(("metric", "length"), [("acc", None), ("acc_norm", "characters"), ("acc_bytes", "bytes")])
def test_scores_of_items_follow_from_what_is_kept(own: Any, metric: str, length: str | None) -> None:
    measured: Measured = own("colours", WIDE, add=METRICS, metric=metric, items={"search": 20, "select": 5})
    table, requests = measured.table["own"], measured.requests("own")
    assert (table.kind, table.metric, table.length) == ("choice", f"{metric},none", length)
    assert requests.characters_R[:4].tolist() == [4, 4, 3, 1]
    assert requests.bytes_R[:4].tolist() == [8, 12, 3, 1]

    by = {None: 1.0, "characters": requests.characters_R, "bytes": requests.bytes_R}[length]
    assert choose(measured, "own", by) == measured.scores.items["own"]
    assert 0 < sum(measured.scores.items["own"]) < 20


def test_the_three_ways_to_choose_differ_on_these_items(own: Any) -> None:
    measured: Measured = own("colours", WIDE, add=METRICS, items={"search": 20, "select": 5})
    requests = measured.requests("own")
    assert len({tuple(choose(measured, "own", by)) for by in (1.0, requests.characters_R, requests.bytes_R)}) == 3


def test_the_score_is_the_same_whether_answers_are_kept_or_not(measure: Any) -> None:
    measured = measure("colours", "write_colour")
    again = measured.suite.evaluate(measured.engine.lm, "search")
    assert again.answers is None
    assert (again.items, again.metrics) == (measured.scores.items, measured.scores.metrics)


SCORE = "def score(doc, results):\n    return {'acc': 1.0}\n"
MATCHED = (
    "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n",
    "  - {metric: exact_match, aggregation: mean}\n",
)
SEVERAL = ("doc_to_target: answer", 'doc_to_target: "{{[answer, (answer + question|length % 2) % 4]}}"')


def test_a_task_is_of_choices_only_where_the_likeliest_choice_decides(own: Any) -> None:
    by_itself = own("colours", add="process_results: !function own.score\n", python=SCORE)
    assert (by_itself.table["own"].kind, by_itself.requests("own").gold.tolist()) == ("none", [-1] * 8)
    assert by_itself.requests("own").requests == 32

    matched = own("colours", MATCHED, metric="exact_match")
    assert (matched.table["own"].kind, matched.table["own"].length) == ("none", None)

    several = own("colours", SEVERAL)
    assert several.table["own"].kind == "none"
    assert -1 in several.requests("own").gold.tolist()


def test_choices_without_a_context_are_no_choices(own: Any) -> None:
    added = "  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}\n"
    given = own("colours", add=added)
    assert (given.table["own"].kind, given.requests("own").requests) == ("choice", 8 * 4)
    assert choose(given, "own", 1.0) == given.scores.items["own"]

    needed = own("colours", add=added, metric="acc_mutual_info")
    assert (needed.table["own"].kind, needed.requests("own").requests) == ("none", 8 * 8)
    values = needed.answers("own").loglikelihood.reshape(8, 2, 4)
    right = (values[:, 0] - values[:, 1]).argmax(axis=1) == needed.requests("own").gold
    assert right.astype(float).tolist() == needed.scores.items["own"]


def test_contexts_that_differ_are_choices_whose_lengths_lm_eval_takes_from_the_options(own: Any) -> None:
    measured = own(
        "colours",
        ('doc_to_choice: "{{choices}}"', "doc_to_choice: \"{{['A ' + choices[0], 'Bb ' + choices[1]]}}\""),
        ("doc_to_target: answer", 'doc_to_target: "is the colour"'),
        ('doc_to_text: "Question: {{question}}\\nAnswer:"', 'doc_to_text: "{{answer % 2}}"'),
        metric="acc_norm",
    )
    requests: SplitRequests = measured.requests("own")
    assert measured.table["own"].kind == "choice"
    assert requests.characters_R[:2].tolist() == [len("A red"), len("Bb green")]
    assert choose(measured, "own", requests.characters_R) == measured.scores.items["own"]


def test_continued_texts_are_references(measure: Any) -> None:
    measured = measure({"task": "continue_colour", "metric": "acc"})
    table: TaskRequests = measured.table["continue_colour"]
    assert (table.kind, table.metric, table.length) == ("reference", "acc,none", None)
    assert measured.answers("continue_colour").greedy.tolist() == measured.scores.items["continue_colour"]
    assert set(measured.requests("continue_colour").characters_R.tolist()) <= {4, 6, 5, 12}  # with the task's blank
    assert {split: len(of.gold) for split, of in table.splits.items()} == {
        split: len(measured.suite.tasks["continue_colour"].of(split)) for split in SPLITS
    }


def test_generated_answers_are_kept_and_the_right_ones_scored(own: Any) -> None:
    measured: Measured = own("write_colour", ('doc_to_target: "{{text[0]}}"', "doc_to_target: text"), filter="strict")
    table, answers = measured.table["own"], measured.answers("own")
    assert (table.kind, table.length) == ("reference", None)
    items = measured.suite.tasks["own"].search
    assert [item for item, _ in answers.generated] == list(items)

    parts = measured.suite.build_split("search", measured.engine.lm)["own"]
    prompts = [instance for part in parts for instance in part.list_instances()]
    assert [text for _, text in answers.generated] == measured.engine.lm.generate_until(prompts)
    pairs = [(prompt.args[0], " " + prompt.doc["text"]) for prompt in prompts]
    assert measured.requests("own").characters_R.tolist() == [len(text) - 1 for _, text in pairs]

    tokens = [measured.engine.lm.tokenise_pair(*pair) for pair in pairs]
    with torch.inference_mode():
        for (context, continuation), kept in zip(tokens, answers.loglikelihood, strict=True):
            logits = measured.engine.lm.model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
            places = range(len(context) - 1, len(context) + len(continuation) - 1)
            alone = sum(float(logits[place, token]) for place, token in zip(places, continuation, strict=True))
            assert kept == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("doc_to_target: \"{{[text, 'other']}}\"", "first"),
        ('doc_to_target: ""', None),
        ("doc_to_target: answer", "number"),
    ],
)
def test_the_reference_is_the_first_target_that_is_a_text(own: Any, target: str, expected: str | None) -> None:
    measured: Measured = own("write_colour", ('doc_to_target: "{{text[0]}}"', target), filter="strict")
    references = measured.suite.keep_split("search", measured.engine.lm).references["own"]
    wanted = {"first": lambda doc: " " + doc["text"], "number": lambda doc: f" {doc['answer']}"}
    if expected is None:
        assert (references, measured.table["own"].kind, measured.requests("own").requests) == ([], "none", 0)
        assert measured.answers("own").loglikelihood.shape == (0,)
        assert len(measured.answers("own").generated) == 8
    else:
        assert [request.args[1] for request in references] == [wanted[expected](request.doc) for request in references]
        assert measured.table["own"].kind == "reference"


def test_references_can_be_left_out(own: Any) -> None:
    measured: Measured = own("write_colour", filter="strict", reference_loglikelihood=False)
    assert (measured.table["own"].kind, measured.requests("own").requests) == ("none", 0)
    assert len(measured.answers("own").generated) == 8


def test_a_reference_that_is_too_long_is_left_out_and_no_fault(own: Any) -> None:
    long = "doc_to_target: \"{{(text + ' ') * (900 if answer == 1 else 1)}}\""
    measured: Measured = own("write_colour", ('doc_to_target: "{{text[0]}}"', long), filter="strict")
    sizes = np.diff(measured.requests("own").offsets)
    parts = measured.suite.build_split("search", measured.engine.lm)["own"]
    documents = [instance.doc for part in parts for instance in part.list_instances()]
    assert sizes.tolist() == [int(document["answer"] != 1) for document in documents]
    assert measured.table["own"].kind == "none"


def test_a_model_without_numbers_still_scores_its_generated_answers(own: Any) -> None:
    measured: Measured = own("write_colour", filter="strict")
    with torch.no_grad():
        measured.engine.lm.model.model.norm.weight.fill_(torch.nan)
    broken = measured.suite.evaluate(measured.engine.lm, "search", keep=True)
    assert broken.items["own"] == [0.0] * 8
    assert broken.answers is not None
    assert np.isnan(broken.answers["own"].loglikelihood).all()


def test_a_reference_after_a_chat_template_follows_without_a_blank(own: Any) -> None:
    measured: Measured = own("write_colour", filter="strict", apply_chat_template=True)
    references = measured.suite.keep_split("search", measured.engine.lm).references["own"]
    assert {request.args[1] for request in references} <= {"r", "g", "b", "d"}
    assert all(request.args[0].endswith("[assistant]") for request in references)


def test_the_tokens_of_references_count(own: Any) -> None:
    with_them: Measured = own("write_colour", filter="strict")
    without: Measured = own("write_colour", filter="strict", reference_loglikelihood=False)
    counts = [each.suite.count_tokens("search", each.engine.lm)["own"] for each in (with_them, without)]
    assert counts[0] > counts[1]
    assert with_them.scores.tokens > without.scores.tokens


@pytest.mark.parametrize("names", [("colours", "write_colour"), ("both",)])
def test_rounds_of_some_items_come_to_the_whole(measure: Any, names: tuple[str, ...]) -> None:
    """Scores, log-likelihoods and generated texts of a split that is asked in three parts are those of all at once."""
    with_metric: Any = [{"task": "both", "metric": "acc"}] if names == ("both",) else names
    whole = measure(*with_metric)
    suite, lm = whole.suite, whole.engine.lm
    counts = {task: len(scores) for task, scores in whole.scores.items.items()}
    parts = []
    for first in range(3):
        places = {task: range(first, count, 3) for task, count in counts.items()}
        parts.append(suite.evaluate(lm, "search", keep=True, places=places))
        for task, scores in parts[-1].items.items():
            assert [place for place, score in enumerate(scores) if score is not None] == list(places[task])
        assert suite.list_requests("search", lm, places).keys() == counts.keys()
    assert sum(part.tokens for part in parts) >= whole.scores.tokens

    joined, answers = join_scores([part.items for part in parts]), join_answers([part.answers for part in parts])
    for task in counts:
        assert list(joined[task]) == list(whole.scores.items[task])
        assert average(joined[task]) == pytest.approx(average(whole.scores.items[task]))
        ours, theirs = answers[task], whole.answers(task)
        np.testing.assert_allclose(ours.loglikelihood, theirs.loglikelihood, atol=1e-4)
        assert ours.greedy.tolist() == theirs.greedy.tolist()
        assert sorted(ours.generated) == sorted(theirs.generated)
