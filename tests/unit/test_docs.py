"""The documentation says what the code does: every key, option, command, example and link."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aftermix import config
from aftermix.cli import cli
from aftermix.config import Config, MergeConfig, parse_config
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.jobs.search.space_from_config import build_space
from aftermix.merging.methods import INTER, INTRA, METHODS, bind
from aftermix.runs.json_record import RunRecord
from aftermix.runs.reader import RunContents
from aftermix.runs.records import BestRecord
from aftermix.runs.trials import Trial
from aftermix.runs.verification_records import LossRecord, TrainingRecord
from aftermix.search.objective import ObjectiveSet
from aftermix.yaml_file import parse_yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": config.Config,
    "vectors.NAME": config.VectorConfig,
    "vectors.NAME.calibration": config.CalibrationConfig,
    "merge": config.MergeConfig,
    "evaluate": config.EvaluateConfig,
    "evaluate.tasks": config.TaskConfig,
    "evaluate.items": config.ItemsConfig,
    "search": config.SearchConfig,
    "search.objective": config.Objective,
    "search.over": config.SearchedSettings,
    "search.over.OPTION": config.Dimension,
    "mixture": config.MixtureConfig,
    "mixture.utility": config.UtilityConfig,
    "mixture.levels.NAME": config.LevelConfig,
    "compare.NAME": config.RivalConfig,
    "compare.NAME.train": config.RivalTrainingConfig,
    "calibrate": config.CalibrateConfig,
    "iterate": config.IterateConfig,
    "track": config.TrackConfig,
    "train": config.TrainConfig,
    "train.mixtures": config.TrainedMixturesConfig,
    "train.lora": config.LoraConfig,
    "train.optimizer": config.OptimizerConfig,
    "train.optimizer.scale": config.ScaleConfig,
    "train.datasets.NAME": config.DatasetConfig,
    "train.sources.NAME": config.SourceConfig,
    "The hardware file": config.HardwareConfig,
    "hardware: gpu": config.GpuConfig,
    "hardware: host": config.HostConfig,
    "hardware: disk": config.DiskConfig,
    "hardware: engine": config.EngineConfig,
    "hardware: speed": config.SpeedConfig,
    "hardware: work": config.WorkConfig,
}
"""Heading of docs/configuration.md by the part of the file that it describes."""

Table = dict[str, list[str]]
"""First cell without backticks -> all cells of the row."""


def headed(text: str, level: int) -> dict[str, str]:
    """Text under each heading of `level`, up to the next one of that or a higher level; code fences are no headings."""
    found: dict[str, list[str]] = {}
    current, fenced = None, False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else re.match(r"(#+) (.*)", line)
        if heading and len(heading[1]) <= level:
            current = heading[2].replace("`", "") if len(heading[1]) == level else None
        elif current is not None:
            found.setdefault(current, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def table(text: str) -> Table:
    """Rows of the tables in `text` whose first cell is one word in backticks."""
    rows: Table = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| `") else []
        if cells and re.fullmatch(r"`[^`]+`", cells[0]):
            rows[cells[0].strip("`")] = cells
    return rows


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Info string and content of each fenced block."""
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield match[1].strip(), match[2]


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def value_in(cell: str) -> Any:
    """The value that stands in backticks in a table cell."""
    return parse_yaml(f"value: {cell.strip('`')}", where=cell)["value"]


def plain(value: Any) -> Any:
    """A default as the YAML file would write it: sections as what was set, tuples as lists."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value


def configuration() -> dict[str, str]:
    return headed((DOCS / "configuration.md").read_text(encoding="utf-8"), 2)


def test_every_section_of_the_file_has_its_heading() -> None:
    known = {kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, BaseModel)}
    assert known - {BaseModel, config.ConfigSection, config.PromptConfig} == set(SECTIONS.values())
    assert set(SECTIONS) <= set(configuration())


@pytest.mark.parametrize(("heading", "kind"), SECTIONS.items())
def test_every_key_is_documented_with_its_default(heading: str, kind: type[BaseModel]) -> None:
    text = configuration()[heading]
    rows = {name: cells for name, cells in table(text).items() if len(cells) == 4}
    assert set(rows) == {field.alias or name for name, field in kind.model_fields.items()}
    for name, field in kind.model_fields.items():
        _, kind_of_value, default, meaning = rows[field.alias or name]
        assert kind_of_value, name
        assert meaning, name
        assert_default(f"{heading}: {name}", default, field)


def assert_default(where: str, cell: str, field: FieldInfo) -> None:
    if field.is_required():
        assert cell == "*required*", where
    elif field.default is None:
        assert cell == "-", where
    else:
        assert value_in(cell) == plain(field.default), where


def test_every_method_and_option_is_documented_with_its_default() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    overview, pages = table(headed(text, 2)["Methods"]), headed(text, 3)
    assert set(overview) >= set(METHODS)
    for method in METHODS:
        options = bind(MergeConfig(method=method)).options
        rows = table(pages[method])
        assert {name for name, cells in rows.items() if len(cells) == 3} == set(options)
        for option, default in options.items():
            assert value_in(rows[option][1]) == default, f"{method}: {option}"
            assert f"`{option}: {str(default).lower()}`" in overview[method][3], f"{method}: {option}"


def test_every_rule_is_documented_with_its_options() -> None:
    pages = headed((DOCS / "methods.md").read_text(encoding="utf-8"), 3)
    for rule, function in {**INTRA, **{name: kind.rule for name, kind in INTER.items()}}.items():
        parameters = inspect.signature(function).parameters.values()
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        rows = {name: cells for name, cells in table(pages[rule]).items() if len(cells) == 4}
        assert {name: value_in(cells[2]) for name, cells in rows.items()} == options, rule


def test_every_command_has_its_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        page = DOCS / "how-to" / f"{name}.md"
        assert page.is_file(), name
        assert f"(how-to/{name}.md)" in index
        text = page.read_text(encoding="utf-8")
        assert f"\naftermix {name} " in text
        for parameter in command.params:
            written = [option for option in parameter.opts if option.startswith("-")]
            assert not written or any(f"{option}" in text for option in written), f"{name}: {written}"


def test_every_field_of_a_run_is_documented() -> None:
    pages = headed((DOCS / "run-folder.md").read_text(encoding="utf-8"), 2)
    assert set(table(pages["trials.jsonl"])) == {field.name for field in fields(Trial)}
    named = set(re.findall(r"`(\w+)`", pages["best.json"]))
    assert set(BestRecord.model_fields) <= named


def list_records(base: type[RunRecord] = RunRecord) -> Iterator[type[RunRecord]]:
    """Records of all files of a run but `train.json`, which is the expert's."""
    for record in base.__subclasses__():
        if record not in (TrainingRecord, LossRecord):
            yield record
            yield from list_records(record)


def test_every_field_of_every_record_is_documented() -> None:
    assert RunContents  # the reader knows all records
    named = set(re.findall(r"`([\w ]+)`", (DOCS / "run-folder.md").read_text(encoding="utf-8")))
    missing = {record.__name__: set(record.model_fields) - named for record in list_records()}
    assert {name: fields for name, fields in missing.items() if fields} == {}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_yaml_example_is_accepted(page: Path) -> None:
    for info, content in fences(page.read_text(encoding="utf-8")):
        assert not info.startswith("yaml") or info in ("yaml", "yaml lm-eval", "yaml mergekit", "yaml hardware"), info
        if info == "yaml hardware":
            config.HardwareConfig.model_validate(parse_yaml(content, where=page.name))
        elif info.startswith("yaml "):
            parse_yaml(content, where=page.name)
        elif info == "yaml":
            accept(parse_config(parse_yaml(content, where=page.name), where=page.name, folder=ROOT))


def accept(example: Config) -> None:
    """What is checked before weights are read: method and options, what is searched, mixtures, and objectives."""
    bind(example.merge)
    if example.vectors:
        build_space(example)
    if example.vectors and example.evaluate is not None and example.mixture is not None:
        MixtureProblem.build_flat(example) if example.mixture.tree is None else TreeProblem.from_config(example)
    if example.evaluate is not None:
        ObjectiveSet.build(example.search.objective, tasks=[task.task for task in example.evaluate.tasks])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target
