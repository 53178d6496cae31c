"""Keys on the form of prompts and answers, on all tasks or on one: as lm-eval has them, and in the lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from aftermix.errors import AftermixError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.harness import TaskSuite

THINKING = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if thinks is defined and thinks %}<think>{% endif %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
SYSTEM = "You name colours."
SIZED = """
import datasets
def load(size=2, **_):
    rows = [{"question": f"{n}?", "choices": ["red", "blue"], "answer": n % 2} for n in range(size)]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
"""


@pytest.fixture
def tokenizer(tmp_path: Path, tokenizer_folder: Path) -> Path:
    """The tokenizer with a template that asks for a variable of its own."""
    loaded = AutoTokenizer.from_pretrained(tokenizer_folder)
    loaded.chat_template = THINKING
    loaded.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def open_lm(model: Path, tokenizer: Path, config: Any) -> Any:
    return HuggingFaceEngine.open(model, tokenizer_folder=tokenizer, config=config).lm


def list_prompts(suite: TaskSuite, lm: Any, task: str) -> list[tuple[Any, ...]]:
    return [request.args for request in suite.list_requests("search", lm)[task]]


def ask_lm_eval(lm: Any, folder: Path, suite: TaskSuite, task: str, *, model: Any, **options: Any) -> Any:
    """Samples of lm-eval itself, by its own model class, on the search items."""
    plain = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4, backend="causal", max_length=512, **model)
    results = lm_eval.simple_evaluate(
        model=plain,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        samples={task: [int(item.rpartition("/")[2]) for item in suite.tasks[task].search]},
        bootstrap_iters=0,
        **options,
    )
    assert results is not None
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


KEYS = {
    "system": ({"system_instruction": SYSTEM}, {}, {"system_instruction": SYSTEM}),
    "system-chat": (
        {"system_instruction": SYSTEM, "apply_chat_template": True},
        {},
        {"system_instruction": SYSTEM, "apply_chat_template": True},
    ),
    "one-turn": (
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
        {},
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
    ),
    "template-arguments": (
        {"apply_chat_template": True, "chat_template_args": {"thinks": True}},
        {"chat_template_args": {"thinks": True}},
        {"apply_chat_template": True, "fewshot_as_multiturn": True},
    ),
}


@pytest.mark.parametrize("place", ["all", "one"])
@pytest.mark.parametrize("case", KEYS)
def test_prompts_and_scores_are_those_of_lm_eval(
    tasks: Path,
    model_a: Path,
    tokenizer: Path,
    config_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    place: str,
) -> None:
    monkeypatch.chdir(tasks)  # for lm-eval itself, which looks for data files here
    keys, model, options = KEYS[case]
    common: Any = keys if place == "all" else {}
    line = {"task": "colours", **({} if place == "all" else keys)}
    config = config_of(tasks, line, num_fewshot=2, items={"search": 12, "select": 5}, **common)
    suite, plain = TaskSuite.build(config), TaskSuite.build(config_of(tasks, "colours", num_fewshot=2))
    lm = open_lm(model_a, tokenizer, config)
    samples = ask_lm_eval(lm, tasks, suite, "colours", model=model, num_fewshot=2, **options)

    kept = [sample for sample in samples if sample["filter"] == "none"]
    expected = (
        [tuple(call.values()) for sample in kept for call in sample["arguments"].values()]
        if isinstance(kept[0]["arguments"], dict)
        else [tuple(call) for sample in kept for call in sample["arguments"]]
    )
    assert list_prompts(suite, lm, "colours") == expected
    assert suite.evaluate(lm, "search").items["colours"] == [sample["acc"] for sample in kept]
    assert list_prompts(plain, lm, "colours")[0] != expected[0]

    # What is asked otherwise is another task.
    assert suite.fingerprint_tasks(lm)["colours"].requests != plain.fingerprint_tasks(lm)["colours"].requests


def test_generation_options_and_thoughts_are_those_of_lm_eval(
    tasks: Path, model_a: Path, tokenizer: Path, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tasks)
    found: dict[str, list[str]] = {}
    frequent = 0
    for name in ("plain", "short", "text", "token"):
        end = {"text": "e", "token": frequent}.get(name)
        model = {"think_end_token": end} if end is not None else {}
        options = {"gen_kwargs": {"max_gen_toks": 3}} if name == "short" else {}
        line = {"task": "write_colour", **model, **options}
        config = config_of(tasks, line, items={"search": 24, "select": 5})
        suite = TaskSuite.build(config)
        lm = open_lm(model_a, tokenizer, config)
        found[name] = lm.generate_until(suite.list_requests("search", lm)["write_colour"])
        samples = ask_lm_eval(lm, tasks, suite, "write_colour", model=model, **options)
        by_item = {sample["doc_id"]: sample["resps"][0][0] for sample in samples}
        assert found[name] == [by_item[number] for number in sorted(by_item)], name
        if name == "plain":
            plan = lm.find_generation_plan(suite.list_requests("search", lm)["write_colour"])
            generated = [lm._generate(batch, seed=0)[:, 0] for batch in plan.batches]
            frequent = int(torch.cat(generated).mode().values)
    assert len({tuple(answers) for answers in found.values()}) == 4

    def hash_requests(**keys: Any) -> str:
        config = config_of(tasks, "write_colour", **keys)
        return TaskSuite.build(config).fingerprint_tasks(None)["write_colour"].requests

    hashes = [{}, {"gen_kwargs": {"max_gen_toks": 3}}, {"think_end_token": "e"}, {"think_end_token": 70}]
    assert len({hash_requests(**keys) for keys in hashes}) == 4


def test_the_line_of_a_task_goes_before_and_adds_to_mappings(tasks: Path, config_of: Any) -> None:
    config = config_of(
        tasks,
        {"task": "colours", "gen_kwargs": {"top_k": 5}, "system_instruction": "Own."},
        "numbers",
        gen_kwargs={"do_sample": True, "top_k": 9},
        system_instruction=SYSTEM,
        apply_chat_template=False,
    )
    own, other = (config.choose_prompt(task) for task in config.tasks)
    assert (own.system_instruction, own.gen_kwargs) == ("Own.", {"do_sample": True, "top_k": 5})
    assert (other.system_instruction, other.gen_kwargs) == (SYSTEM, {"do_sample": True, "top_k": 9})
    assert not config.applies_chat_template
    assert config_of(tasks, {"task": "colours", "apply_chat_template": True}, "numbers").applies_chat_template


def test_metadata_reaches_the_code_of_a_task(tmp_path: Path, config_of: Any) -> None:
    (tmp_path / "own.py").write_text(SIZED)
    (tmp_path / "sized.yaml").write_text(
        "task: sized\ncustom_dataset: !function own.load\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: choices\ndoc_to_target: answer\nmetadata: {version: 1, size: 8}\n'
    )
    for keys, size in (({}, 8), ({"metadata": {"size": 12}}, 12)):
        config = config_of(tmp_path, {"task": "sized", **keys}, items={"search": 2, "select": 2, "test": "rest"})
        assert sum(TaskSuite.build(config).count_items()["sized"].values()) == size


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"fewshot_as_multiturn": True},
            "task 'colours': few-shot examples are to be turns, but no chat template applies. "
            "Set `apply_chat_template: true`, or leave `fewshot_as_multiturn` out.",
        ),
        (
            {"gen_kwargs": {"top_k": 5}},
            "task 'colours': has `gen_kwargs`, but generates no text. Leave `gen_kwargs` out of its line.",
        ),
        (
            {"think_end_token": "e"},
            "task 'colours': has `think_end_token`, but generates no text. Leave `think_end_token` out of its line.",
        ),
    ],
)
def test_keys_that_cannot_be_followed_are_refused(
    tasks: Path, config_of: Any, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(AftermixError) as refusal:
        TaskSuite.build(config_of(tasks, {"task": "colours", **keys}))
    assert str(refusal.value) == message
