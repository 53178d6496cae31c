"""Scenario of inputs that are refused: what is said and the exit code, and that nothing is written."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .scenario import WORLD, Scenario, Section, commands, evaluated, job, trained

TIED = f"{WORLD}/tied"
DAMAGED = f"{WORLD}/damaged"
GONE = object()
"""Value of a key that is taken out."""
RUNS: Mapping[str, str | Section] = {
    "good.yaml": job(
        merge={"method": "ties"},
        evaluate=evaluated(),
        search={"trials": 4, "startup": 3, "top": 1, "baselines": False},
    ),
    "broken/config.yaml": "base: [",
    "broken/best.json": '{"ratios": {"b": ',
    "broken/trials.jsonl": '{"number": 0, "state": "complete"}\n{"number": 7}\n',
    "empty/notes.txt": "nothing of a run",
    "full/there.txt": "in the way",
}


@dataclass(frozen=True)
class BadInput:
    """A command over a good file in which some keys are changed, or over a file of its own."""

    name: str
    command: str
    """Its words; `FILE` stands for the file."""
    changed: Mapping[str, Any] = field(default_factory=dict)
    """Values by dotted key, as changes of the good file."""
    text: str | Section = ""
    """The whole file instead."""

    def content(self) -> str | Section:
        """Return the file."""
        return self.text or change(good(), self.changed)


def good() -> dict[str, Any]:
    """Return a file that every command takes."""
    sections: dict[str, Any] = {"search": {"trials": 4, "startup": 3}, "mixture": {"points": 6}}
    return job(merge={"method": "ties"}, evaluate=evaluated(), train=trained("b", "c"), **sections)


def change(values: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with other values at dotted keys."""
    result = copy.deepcopy(dict(values))
    for path, value in changed.items():
        *parents, last = path.split(".")
        section = result
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value
        if value is GONE:
            del section[last]
    return result


def merging(name: str, **changed: Any) -> BadInput:
    """Return a merge of the good file with changes; `__` stands for a dot in a key."""
    return BadInput(name, "merge FILE -o out", {key.replace("__", "."): value for key, value in changed.items()})


def with_expert(damage: str) -> BadInput:
    """Return a merge whose expert `b` is the damaged model of that name."""
    return merging(f"expert-{damage}", vectors__b__model=f"{DAMAGED}/{damage}")


def ask(name: str, command: str, **changed: Any) -> BadInput:
    """Return `command` over the good file with changes."""
    return BadInput(name, command, {key.replace("__", "."): value for key, value in changed.items()})


def recipe(name: str, **changed: Any) -> BadInput:
    """Return a merge by a recipe of mergekit with changes."""
    models = [{"model": f"{TIED}/{vector}", "parameters": {"weight": 0.5, "density": 0.5}} for vector in "bc"]
    whole = {"merge_method": "ties", "base_model": f"{TIED}/base", "models": models}
    return BadInput(f"recipe-{name}", "merge FILE -o out", text={**whole, **changed})


FILES = (
    BadInput("no-file", "merge absent.yaml -o out"),
    BadInput("folder-as-file", "merge empty -o out"),
    BadInput("not-yaml", "merge FILE -o out", text="base: [1, 2\nvectors: }"),
    BadInput("not-a-mapping", "merge FILE -o out", text="- base\n- vectors\n"),
    BadInput("key-twice", "merge FILE -o out", text="base: a\nbase: b\n"),
    BadInput("python-tag", "merge FILE -o out", text="base: !!python/object/apply:os.system [ls]\n"),
    BadInput("control-character", "merge FILE -o out", text="base: \u0000\n"),
    BadInput("nan-in-yaml", "merge FILE -o out", text="base: x\nmerge: {lambda: .nan}\n"),
    merging("unknown-key", mrege={}),
    merging("unknown-key-below", vectors__b__wieght=1),
    merging("wrong-type", vectors__b__weight="much"),
    merging("wrong-types", vectors="b", merge=[1], evaluate=3),
    merging("bad-name", **{"vectors.b c": {"model": "x"}}),
    merging("no-base", base=GONE),
    merging("no-vectors", vectors={}),
    merging("several-faults", vectors__b__density=2, vectors__c__range=[1, 0], merge__seed=-1),
)
METHODS = (
    merging("unknown-method", merge__method="tise"),
    merging("unknown-method-far", merge__method="zzz"),
    merging("unknown-option", merge__densty=0.3),
    merging("option-out-of-bounds", merge__density=1.5),
    merging("option-of-another", merge={"method": "linear", "density": 0.3}),
    merging("unknown-rule", merge={"intra": "magnitud", "inter": "sum"}),
    merging("method-and-pair", merge={"method": "ties", "inter": "sum"}),
    merging("exclusive-of-random", merge={"intra": "random", "inter": "exclusive"}),
    merging("ratios-above-one", merge={"method": "ties_im"}, vectors__b__ratio=0.8, vectors__c__ratio=0.8),
    merging("order-of-others", merge={"method": "ties_im", "order": ["a", "b"]}),
    merging("ratio-without-use", vectors__b__ratio=0.5),
    merging("compat-without", merge={"method": "pcb", "compat": "mergekit"}),
    merging("slerp-of-three", merge={"method": "slerp"}),
    merging("weights-sum-to-zero", merge={"method": "linear"}, vectors__b__weight=-1.5, vectors__c__weight=1.0),
    merging("no-statistics", merge={"method": "obim"}),
    merging("missing-statistics", merge={"method": "obim", "statistics": "absent"}),
    merging("bad-pattern", merge__exclude=["re:("]),
    merging("unknown-kind", merge__exclude=["kind:heads"]),
    merging("overflow", merge={"method": "task_arithmetic", "dtype": "float16"}, vectors__b__weight=1e8),
)
MODELS = (
    *(
        with_expert(damage)
        for damage in (
            "nan", "shape", "missing", "extra", "renamed", "integers", "header", "length", "short", "empty", "pickled",
            "no-config", "bad-config", "outside", "bare",
        )
    ),
    merging("missing-model", vectors__b__model="./absent"),
    merging("missing-base", base="/absent/base"),
    merging("hub-offline", vectors__b__model="nobody/no-such-model"),
    merging("other-vocabulary", vectors__b__model=f"{WORLD}/odd/wider"),
    merging("unknown-vocabulary", vectors__b__model=f"{WORLD}/odd/wider", merge__vocabulary="z"),
    merging("bad-prefix", vectors__b__prefix={"net.": "model."}),
    merging("adapter-as-base", base=f"{WORLD}/odd/adapter"),
    ask("doctor-of-many", "doctor FILE", vectors__b__model=f"{DAMAGED}/nan", vectors__c__model=f"{DAMAGED}/shape"),
    BadInput("output-full", "merge FILE -o full"),
    BadInput("private-alone", "merge FILE -o out --private"),
    BadInput("push-bad-name", "push empty not/a/name"),
)  # fmt: skip
RECIPES = (
    recipe("unknown-key", models_=[]),
    recipe("unknown-method", merge_method="passthrough"),
    recipe("no-base", base_model=None),
    recipe("gradient", parameters={"density": [0.2, 0.8]}),
    recipe("slices", slices=[{"sources": [{"model": f"{TIED}/b", "layer_range": [0, 1]}]}], models=None),
    recipe("union", tokenizer_source="union"),
    recipe("revision", base_model=f"{TIED}/base@v2"),
    recipe("bad-weight", models=[{"model": f"{TIED}/b", "parameters": {"weight": "x"}}]),
)
SEARCHES = (
    ask("search-without-evaluate", "search FILE -o out", evaluate=GONE),
    ask("unknown-task", "search FILE -o out", evaluate__tasks=["colors"]),
    ask("unknown-metric", "search FILE -o out", evaluate__tasks=[{"task": "colours", "metric": "bleu"}]),
    ask("too-many-items", "search FILE -o out", evaluate__items={"search": 50, "select": 50}),
    ask("ranges-swapped", "search FILE -o out", vectors__b__range=[0.9, 0.1]),
    ask("weight-outside-range", "search FILE -o out", vectors__b__range=[0.1, 0.2], vectors__b__weight=0.7),
    ask("objective-of-others", "search FILE -o out", search__objective={"tasks": {"words": 1}}),
    ask("over-unknown", "search FILE -o out", search__over={"densty": [0.1, 0.2]}),
    ask("over-bounds", "search FILE -o out", search__over={"density": {"low": 0.5, "high": 1.5}}),
    ask("over-nothing", "search FILE -o out", search__over={"weights": False}),
    BadInput("no-run-named", "search FILE"),
    BadInput("both-runs-named", "search FILE -o out --resume run"),
    BadInput("resume-missing", "search --resume absent"),
    BadInput("resume-broken", "search --resume broken"),
    BadInput("resume-empty", "mixture --resume empty"),
    ask("resume-changed", "search FILE --resume run", vectors__b__range=[0.2, 0.4]),
    BadInput("from-missing", "search FILE -o out --from absent"),
    ask("from-other-items", "search FILE -o out --from run", evaluate__items__search=19),
    BadInput("search-as-mixture", "mixture --resume run"),
    BadInput("report-missing", "report absent"),
    BadInput("report-broken", "report broken"),
    BadInput("landscape-of-search", "landscape run -o out.svg"),
    BadInput("landscape-unknown", "landscape run -o out.gif"),
    ask("all-fail", "search FILE -o out", vectors__b__range=[1e60, 2e60], search__trials=8),
)
MIXTURES = (
    ask("mixture-without-section", "mixture FILE -o out", mixture=GONE),
    ask("too-few-points", "mixture FILE -o out", mixture__points=2),
    ask("prior-off-simplex", "mixture FILE -o out", mixture__priors={"ours": {"b": 0.9, "c": 0.5}}),
    ask("prior-of-others", "mixture FILE -o out", mixture__priors={"ours": {"z": 1.0}}),
    ask("bounds-above-one", "mixture FILE -o out", mixture__bounds={"b": [0.7, 1], "c": [0.7, 1]}),
    ask("utility-of-others", "mixture FILE -o out", mixture__utility={"weights": {"words": 1}}),
    ask("utility-is-code", "mixture FILE -o out", mixture__utility="__import__('os')"),
    ask("utility-without-names", "mixture FILE -o out", mixture__utility="1 + 2"),
    ask("tree-leaves-out", "mixture FILE -o out", mixture__tree={"left": ["b", "z"]}),
    ask("levels-without-tree", "mixture FILE -o out", mixture__direction="bottom_up"),
    BadInput("caps-without-tokens", "mixture FILE -o out", {
        "mixture.budget_tokens": 10, "mixture.max_epochs": 1, "vectors.b.tokens": GONE,
    }),
    ask("verify-without-data", "mixture FILE -o out --verify 3", train=GONE),
    BadInput("doremi-alone", "mixture FILE -o out --doremi"),
    ask("verify-of-a-tree", "mixture FILE -o out --verify 3", mixture__tree={"all": ["b", "c"]}),
)  # fmt: skip
TRAININGS = (
    ask("train-without-section", "train FILE -o out", train=GONE),
    ask("missing-data", "train FILE -o out", train__datasets={"b": "absent.jsonl"}),
    ask("empty-data", "train FILE -o out", train__datasets={"b": f"{WORLD}/texts/nothing.jsonl"}),
    ask("missing-field", "train FILE -o out", train__datasets__b__text_field="body"),
    ask("long-context", "train FILE -o out", train__context=4096),
    ask("few-tokens", "train FILE -o out", train__datasets__b__tokens=5),
    ask("much-warm-up", "train FILE -o out", train__warmup_steps=99),
    ask("foreign-option", "train FILE -o out", train__optimizer={"name": "adamw", "scale": 1}),
    ask("pilot-without-auto", "train FILE -o out", train__optimizer={"name": "merge_aware", "pilot": "x"}),
    ask("freeze-nothing", "train FILE -o out", train__freeze=["absent"]),
    ask("ratios-below-one", "train FILE -o out", train__datasets__m={"mixture": {"b": 0.5, "c": 0.4}, "tokens": 640}),
    ask("mixture-of-others", "train FILE -o out", train__datasets__m={"mixture": {"z": 1.0}, "tokens": 640}),
    BadInput("lora-rank", "train FILE -o out", {"train.lora": {"rank": 4}, "train.tangent": True}),
    ask("explodes", "train FILE -o out", train__learning_rate=1e30, train__optimizer="sgd"),
)
OTHERS = (
    BadInput("no-command", ""),
    BadInput("unknown-command", "mrege FILE"),
    BadInput("unknown-flag", "merge FILE -o out --fast"),
    BadInput("no-output", "merge FILE"),
    BadInput("export-missing", "export absent --to csv -o out.csv"),
    BadInput("export-no-run", "export empty --to csv -o out.csv"),
    BadInput("export-broken", "export broken --to trl -o out"),
    BadInput("export-unknown", "export run --to nemo -o out"),
    BadInput("export-options", "export FILE --to mergekit -o out.yaml --tokens 5"),
    BadInput("export-without-mixture", "export FILE --to csv -o out.csv"),
    ask("export-unspeakable", "export FILE --to mergekit -o out.yaml", merge={"method": "pcb"}),
    BadInput("average-missing", "average absent -o out"),
    BadInput("average-no-checkpoints", "average empty -o out"),
    BadInput("average-both", f"average {TIED} -o out --last 2 --best 2"),
    BadInput("average-rate-alone", f"average {TIED}/b {TIED}/c -o out --min-rate 0.1"),
    BadInput("diff-of-base", f"diff {TIED}/base --base {TIED}/base -o out"),
    BadInput("diff-of-shapes", f"diff {DAMAGED}/shape --base {TIED}/base -o out"),
    BadInput("inspect-missing", f"inspect {TIED}/b"),
    BadInput("inspect-picture", "inspect FILE --picture out.gif"),
    BadInput("analyze-without-base", f"analyze {TIED}/b --curvature"),
    BadInput("calibrate-nothing", "calibrate FILE -o out"),
    BadInput("calibrate-long", "calibrate FILE -o out", {
        "vectors.b.calibration": f"{WORLD}/texts/b.jsonl", "calibrate": {"context": 4},
    }),
    ask("calibrate-empty", "calibrate FILE -o out", vectors__b__calibration=f"{WORLD}/texts/nothing.jsonl"),
    ask("evaluate-split", "evaluate FILE --split train"),
    ask("evaluate-device", "evaluate FILE", evaluate__device="tpu"),
    ask("plan-without-vectors", "plan FILE", vectors={}),
)  # fmt: skip
ALL = {
    "files": FILES,
    "methods": METHODS,
    "models": MODELS,
    "recipes": RECIPES,
    "searches": SEARCHES,
    "mixtures": MIXTURES,
    "trainings": TRAININGS,
    "others": OTHERS,
}


def list_bad_inputs() -> Iterator[Scenario]:
    """Yield a scenario for each group of bad inputs, behind a small run where one is needed."""
    for group, inputs in ALL.items():
        first = ["search good.yaml -o run"] if any("run" in bad.command.split() for bad in inputs) else []
        files = {f"{bad.name}.yaml": bad.content() for bad in inputs}
        lines = [bad.command.replace("FILE", f"{bad.name}.yaml") for bad in inputs]
        yield Scenario(f"bad-{group}", {**RUNS, **files}, commands(*first, *lines))
