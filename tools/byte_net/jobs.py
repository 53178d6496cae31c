"""Scenarios of the other commands: trainings, averages, differences, statistics, measures, help, and the demo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .merges import CALIBRATE, CALIBRATED
from .scenario import WORLD, Command, KillMoment, Scenario, Section, commands, evaluated, job, trained

TIED = f"{WORLD}/tied"
TEXTS = f"{WORLD}/texts"
COMMANDS = (
    "init", "doctor", "plan", "train", "average", "diff", "inspect", "analyze", "calibrate", "merge", "push", "export",
    "search", "predict", "compare", "mixture", "iterate", "evaluate", "report", "landscape",
)  # fmt: skip
"""A test holds them against the documentation's pages."""


def list_trainings() -> Iterator[Scenario]:
    """Yield all scenarios of trainings."""
    cosine = trained("b", "c", schedule="cosine", warmup_steps=2, checkpoint_tokens=256, save_steps=2)
    yield train("train-adamw", {
        "cosine": cosine,
        "wsd": trained("b", schedule="wsd", decay_share=0.4, decay_shape="linear", weight_decay=0.0),
        "again": trained("b", accumulation=2, freeze=["embed_tokens", "kind:head"], dtype="float32", seed=5),
    }, "train cosine.yaml -o cosine")  # fmt: skip
    yield train("train-merge_aware", {
        "plain": merge_aware(),
        "gaussian": merge_aware(distribution="gaussian", scale=1e-3, max_experts=3),
        "table": merge_aware(noise="table", memory="regenerate"),
        "pilot": merge_aware(scale="auto", pilot=f"{TIED}/b", location=1e-4, coefficients=[0.3, 0.7]),
    })  # fmt: skip
    yield train("train-sam", {
        "sam": trained("b", optimizer="sam"),
        "asam": trained("b", optimizer={"name": "asam", "rho": 0.2, "eta": 0.1, "base": "sgd"}, accumulation=2),
        "sgd": trained("b", optimizer={"name": "sgd", "momentum": 0.9}),
    })  # fmt: skip
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}
    yield train("train-lora", {"lora": trained("b", lora=lora, dtype="float32")}, needs="peft")
    yield train("train-data", data_sections())
    chats = {"data": f"{TEXTS}/chats.jsonl", "format": "chat", "tokens": 384}
    yield train("train-chat", {"chat": trained(datasets={"talk": chats})}, base=f"{TIED}/a")
    yield train_killed()


def train(name: str, sections: dict[str, Section], *more: str, base: str = f"{TIED}/base", needs: str = "") -> Scenario:
    """Return a training by each of `sections` from `base`, and `more` commands."""
    files = {f"{stem}.yaml": {"base": base, "train": section} for stem, section in sections.items()}
    lines = [f"train {stem}.yaml -o {stem}" for stem in sections]
    return Scenario(name, files, commands(*lines, *more), needs=needs)


def merge_aware(**options: Any) -> dict[str, Any]:
    """Return a section `train` with the merge-aware optimizer."""
    return trained("b", optimizer={"name": "merge_aware", **options})


def data_sections() -> dict[str, Section]:
    """Return a section for each kind of data: completions, plain text, mixtures."""
    completions = {"data": f"{TEXTS}/completions.jsonl", "format": "completion", "long_examples": "skip"}
    sources = {"c": f"{TEXTS}/c.jsonl", "done": completions}
    mixed = {"mixture": {"b": 0.25, "c": 0.5, "done": 0.25}, "tokens": 900, "max_epochs": 6}
    plain = trained("b")["datasets"]
    return {
        "completion": trained(datasets={"done": {**completions, "tokens": 384}}, mask_documents=True),
        "plain": trained(datasets={"text": f"{TEXTS}/plain.txt"}, precision="bfloat16"),
        "mixture": trained(datasets={**plain, "mixed": mixed}, sources=sources, cache="kept"),
        "tangent": trained("b", tokens=256, tangent=True),
    }


def train_killed() -> Scenario:
    """Return a training that is killed in its only resume point, then behind it, and gone on with; and a whole one."""
    section = trained("b", "c", tokens=2560, save_steps=12, optimizer={"name": "merge_aware"}, checkpoint_tokens=1024)
    files = {"train.yaml": {"base": f"{TIED}/base", "train": section}}
    points = ("models/.c.training/**/*.safetensors", "models/.c.training/*/point.json")
    killed = [Command("train train.yaml -o models", kill=KillMoment(point)) for point in points]
    return Scenario("train-killed", files, commands(*killed, "train train.yaml -o models", "train train.yaml -o whole"))


def list_measures() -> Iterator[Scenario]:
    """Yield the scenarios of average, diff, calibrate, inspect, analyze, evaluate, doctor and plan."""
    yield average()
    yield diff()
    yield calibrate()
    yield inspect()
    yield analyze()
    yield evaluate()
    whole = job("abcd", evaluate=evaluated(), search={"trials": 9}, mixture={"points": 8}, train=trained("b", "c"))
    odd = job("bc", merge={"exclude": ["embed", "re:^nothing$"]}, evaluate=evaluated(num_fewshot=2))
    lines = [f"{command} {file}.yaml" for command in ("doctor", "plan") for file in ("whole", "odd")]
    yield Scenario("doctor-plan", {"whole.yaml": whole, "odd.yaml": odd}, commands(*lines))


def average() -> Scenario:
    """Return averages of the checkpoints of one training: all, the last, by a decay, the best."""
    section = trained("b", tokens=1280, checkpoint_tokens=256)
    by = {"base": f"{TIED}/base", "evaluate": evaluated()}
    files = {"train.yaml": {"base": f"{TIED}/base", "train": section}, "by.yaml": by}
    points = "average models/b-checkpoints -o"
    lines = [f"{points} last --last 3", f"{points} best --best 2 --by by.yaml"]
    lines += [f"{points} {decay} --decay {decay}" for decay in ("linear", "cosine", "1-sqrt")]
    lines += [f"{points} all", f"{points} floor --decay linear --min-rate 0.1 --last 4"]
    return Scenario("average", files, commands("train train.yaml -o models", *lines))


def diff() -> Scenario:
    """Return stored vectors as bfloat16 and int8, merges of them, and recipes that name them."""
    files: dict[str, Section] = {}
    lines = []
    for family in ("tied", "untied"):
        for dtype in ("bfloat16", "int8"):
            stem = f"{family}-{dtype}"
            expert, base = (f"{WORLD}/{family}/{name}" for name in ("a", "base"))
            lines.append(f"diff {expert} --base {base} -o {stem} --dtype {dtype}")
            vector = {"model": stem, "weight": 0.7, "role": "instruction"}
            files[f"{stem}.yaml"] = {"base": base, "vectors": {"v": vector}}
            lines += [f"merge {stem}.yaml -o merged-{stem}", f"doctor {stem}.yaml"]
    lines.append(f"diff {WORLD}/odd/adapter --base {TIED}/base -o adapter")
    return Scenario("diff", files, commands(*lines))


def calibrate() -> Scenario:
    """Return statistics of texts and of a task's prompts, by every way of measuring."""
    from_task = {"a": {"calibration": {"task": "colours", "num_fewshot": 0}}, "b": CALIBRATED["b"]}
    settings: dict[str, Section] = {
        "plain": {},
        "stream": {"stream": True},
        "mean": {"x_statistic": "mean_input", "seed": 3, "batch_size": 2},
        "half": {"dtype": "bfloat16"},
    }
    files = {f"{stem}.yaml": job(own=CALIBRATED, calibrate={**CALIBRATE, **own}) for stem, own in settings.items()}
    files["task.yaml"] = job("ab", own=from_task, calibrate=CALIBRATE, evaluate=evaluated())
    stems = [file.removesuffix(".yaml") for file in files]
    return Scenario("calibrate", files, commands(*(f"calibrate {stem}.yaml -o {stem}" for stem in stems)))


def inspect() -> Scenario:
    """Return norms and cosines as tables, numbers and pictures."""
    files = {"tied.yaml": job("abcde"), "untied.yaml": job(family="untied", merge={"exclude": ["embed_tokens"]})}
    lines = [f"inspect {stem}.yaml --json {stem}.json --picture {stem}.svg" for stem in ("tied", "untied")]
    lines.append(f"inspect {TIED}/b --base {TIED}/base --json one.json --picture one.png")
    return Scenario("inspect", files, commands(*lines))


def analyze() -> Scenario:
    """Return fitted distributions and derivatives of the loss, as tables, numbers and pictures."""
    files = {"tied.yaml": job(own=CALIBRATED, calibrate=CALIBRATE), "untied.yaml": job(family="untied")}
    lines = [f"analyze {stem}.yaml --json {stem}.json --picture {stem}.svg" for stem in ("tied", "untied")]
    lines.append(f"analyze {TIED}/b --base {TIED}/base --json one.json --picture one.png")
    lines.append("analyze tied.yaml --curvature --json curvature.json --picture curvature.svg")
    lines.append("analyze tied.yaml --robustness --json robustness.json --picture robustness.svg")
    return Scenario("analyze", files, commands(*lines))


def evaluate() -> Scenario:
    """Return scores of a merge and of a base, by splits and settings."""
    tasks = [{"task": "colours", "metric": "acc_norm", "num_fewshot": 2}, "numbers"]
    files = {
        "merge.yaml": job(merge={"method": "ties"}, evaluate=evaluated()),
        "base.yaml": {"base": f"{TIED}/base", "evaluate": evaluated(num_fewshot=1)},
        "tasks.yaml": job("ab", evaluate=evaluated(tasks=tasks, apply_chat_template=True, dtype="bfloat16")),
        "first.yaml": job("bc", evaluate=evaluated(items={"search": 10, "select": 20, "scheme": "first"})),
    }
    lines = [f"evaluate merge.yaml --json --split {split}" for split in ("search", "select", "test")]
    lines += [f"evaluate {stem}.yaml" for stem in ("merge", "base", "tasks", "first")]
    return Scenario("evaluate", files, commands(*lines))


def list_starts() -> Iterator[Scenario]:
    """Yield the help of every command, and a few commands in processes of their own."""
    lines = ["--help", "-h", "--version", *(f"{command} --help" for command in COMMANDS)]
    yield Scenario("help", {}, commands(*lines))
    files = {"ties.yaml": job(merge={"method": "ties"})}
    lines = ["--help", "merge ties.yaml -o merged", "merge ties.yaml -o merged", "merg ties.yaml"]
    yield Scenario("fresh-processes", files, tuple(Command(line, is_fresh=True) for line in lines))


def list_demo() -> Iterator[Scenario]:
    """Yield what `make demo` runs and the demo's mixture, which takes minutes."""
    examples, runs = "examples/demo", "runs/demo"
    lines = [
        f"train {examples}/train.yaml -o {runs}/experts",
        f"search {examples}/aftermix.yaml -o {runs}/search",
        f"train {examples}/domains.yaml -o {runs}/domains",
        f"mixture {examples}/mixture.yaml -o {runs}/mixture",
    ]
    yield Scenario("demo", {}, commands(*lines), runs_in_tree=True)
