"""What the net of bytes nulls and what it sees; no version is run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tools.byte_net.bad_inputs import ALL, GONE, BadInput, change, good
from tools.byte_net.catalogue import list_scenarios
from tools.byte_net.compare import compare_files, compare_folders
from tools.byte_net.jobs import COMMANDS
from tools.byte_net.merges import VARIANTS
from tools.byte_net.scenario import Scenario, commands
from tools.byte_net.serve import run_command
from tools.byte_net.table import choose
from tools.byte_net.volatile import null_name, null_volatile

ROOT = Path(__file__).resolve().parents[3]
SCENARIOS = list_scenarios()


# Nulling


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"seconds": 1.25e-03, "x": 2}', '{"seconds": null, "x": 2}'),
        ("a.jsonl", '{"seconds": {"a": 1, "b": 0.5}, "x": 2}\n', '{"seconds": {"a": null, "b": null}, "x": 2}\n'),
        (
            "a.json",
            '{"seconds": {"s": {"a": 1}, "b": 2}, "c": 3}',
            '{"seconds": {"s": {"a": null}, "b": null}, "c": 3}',
        ),
        ("a.json", '{\n "seconds": {}\n}', '{\n "seconds": {}\n}'),
        ("a.json", '{"tokens_per_second": 145.5}', '{"tokens_per_second": null}'),
        ("a.json", '{"aftermix": "0.1.0", "torch": "2.1"}', '{"aftermix": null, "torch": "2.1"}'),
        ("a.html", "took 1.1 s, each 12.0 ms", "took null, each null"),
        ("a.html", "<b>12 min 05 s</b> or 2 h 30 min", "<b>null</b> or null"),
        (
            "a.html",
            '<i style="flex:47.68 0 0" title="prepare: 2.6 s"></i>',
            '<i style="flex:null" title="prepare: null"></i>',
        ),
        (
            "a.html",
            '<td class="n">2.6 s</td><td class="n">47.7 %</td>',
            '<td class="n">null</td><td class="n">null</td>',
        ),
        ("a.output", "aftermix, version 0.1.0", "aftermix, version null"),
        ("a.output", "Speed  13,662 tokens/s now; one merge 0.002 s", "Speed  null tokens/s now; one merge null"),
        ("a.output", "fits into the 23.6 GB that are free", "fits into the null that are free"),
        ("a.output", "at 2026-11-28T10:30:47.5Z, 2026-11-28 10:30", "at null, null"),
        ("a.output", "/x/src/aftermix/a/b.py:12: UserWarning: odd\n  warn(1)\nend", "null: UserWarning: odd\nend"),
    ],
)
def test_what_changes_from_run_to_run_is_null(name: str, text: str, expected: str) -> None:
    assert null_volatile(name, text) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"score": 1.5, "seconds_of": 2, "learning_rate": 0.1}'),
        ("a.json", '{"note": "took 1.1 s"}'),
        ("a.yaml", "seconds: 1.2"),
        ("a.md", "took 1.1 s"),
        ("a.html", '<i style="flex:47.68 0 0" title="b: 0.3"></i><td class="n">47.7 %</td> 3 sets, x1 s, 12 s2'),
        ("a.output", "colours: 25.0 [10.0, 45.0] on 20 items; a 0.5, b 640 tokens, 2001-01-01"),
    ],
)
def test_all_else_stays(name: str, text: str) -> None:
    assert null_volatile(name, text) == text


def test_a_bar_is_what_it_ended_as() -> None:
    drawn = "\ra:   0%|          | 0/8 [00:00<?, ?it/s]\ra:  50%|#####     | 4/8 [00:01<00:01,  3.2it/s, loss=5.7]"
    ended = f"{drawn}\ra: 100%|##########| 8/8 [00:02<00:00,  3.9it/s, best 0.7 at trial 3]\nnext"
    assert null_volatile("a.output", ended) == "a: 100% 8/8, best 0.7 at trial 3\nnext"
    counted = "\rcount b: 0example [00:00, ?example/s]\rcount b: 60example [00:00, 40297.56example/s]"
    assert null_volatile("a.output", counted) == "count b: 60example"


def test_names_lose_the_number_of_the_process_alone() -> None:
    assert null_name("a/.best.json.123.incomplete") == "a/.best.json.null.incomplete"
    assert null_name("a/items.123.json") == "a/items.123.json"


# Comparison


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_folders_are_the_same_but_for_what_is_null(tmp_path: Path) -> None:
    old = write(tmp_path / "old", a__json='{"seconds": 1.0}', b__bin=b"\xff\x00")
    new = write(tmp_path / "new", a__json='{"seconds": 2.0}', b__bin=b"\xff\x00")
    assert compare_folders(old, new) == []


def test_what_differs_is_told_with_its_lines(tmp_path: Path) -> None:
    old = write(tmp_path / "old", a__json='{"x": 1}', b__md="same", c__bin=b"\xff\x00", d__txt="", z__txt="")
    new = write(tmp_path / "new", a__json='{"x": 1 }', b__md="same", c__bin=b"\xff\x01", e__txt="", z__txt="")
    (old / "empty").mkdir()
    found = {difference.name: difference.lines for difference in compare_folders(old, new)}
    assert list(found) == ["a.json", "c.bin", "d.txt", "e.txt", "empty/"]
    assert found["a.json"][-2:] == ('-{"x": 1}', '+{"x": 1 }')
    assert found["c.bin"] == ("bytes differ from byte 1 on; OLD has 2 bytes, NEW 2",)
    assert found["d.txt"] == found["empty/"] == ("only OLD has it",)
    assert found["e.txt"] == ("only NEW has it",)


def test_a_long_difference_is_cut() -> None:
    lines = compare_files("a.txt", b"".join(b"%d\n" % n for n in range(99)), b"")
    assert len(lines) == 15
    assert lines[-1] == "... 88 more lines"


def test_line_ends_and_a_last_line_break_count() -> None:
    assert compare_files("a.txt", b"a\nb\n", b"a\nb")
    assert compare_files("a.txt", b"a\nb\n", b"a\r\nb\n")


def test_tensors_that_differ_are_named() -> None:
    tensors = {"a": torch.full((3,), -1.5), "b": torch.full((2,), -2.5)}
    old, new = (save(tensors | own, {"format": "pt"}) for own in ({}, {"b": torch.full((2,), -2.6)}))
    place, names = compare_files("model.safetensors", old, new)
    assert place.startswith("bytes differ from byte ")
    assert names == "1 tensors differ, first b"


# Scenarios


def test_every_method_of_the_documentation_is_merged_by() -> None:
    table = (ROOT / "docs" / "methods.md").read_text().split("\n## Methods\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|$", table.split("| | `sum`")[0], re.MULTILINE)
    assert sorted(VARIANTS) == sorted(rows)


def test_every_command_has_its_help_asked_for() -> None:
    from aftermix.cli import cli

    assert sorted(COMMANDS) == sorted(cli.commands)


def test_every_consumer_is_exported_to() -> None:
    from aftermix.cli import TRAINERS

    lines = " ".join(command.line for command in SCENARIOS["mixture"].commands)
    assert all(f"--to {name} " in lines for name in ("mergekit", *TRAINERS))


def test_there_are_more_than_sixty_bad_inputs_each_with_a_name_of_its_own() -> None:
    names = [bad.name for group in ALL.values() for bad in group]
    assert len(names) == len(set(names)) > 60


def test_a_bad_input_is_the_good_one_with_a_change() -> None:
    bad = BadInput("x", "merge FILE", {"vectors.b.weight": 9, "merge": GONE, "new.key": 1})
    changed = bad.content()
    assert isinstance(changed, dict)
    assert changed["vectors"]["b"]["weight"] == 9
    assert changed["new"] == {"key": 1}
    assert "merge" not in changed
    assert change(good(), {}) == good()


def test_scenarios_are_chosen_by_how_they_begin() -> None:
    assert [scenario.name for scenario in choose(only=["mixture-tree"], skip=["mixture-tree-top"])] == [
        "mixture-tree-bottom_up"
    ]
    assert "demo" not in [scenario.name for scenario in choose(only=None, skip=["demo"])]
    with pytest.raises(SystemExit, match="There is no scenario 'nothing'"):
        choose(only=["nothing"], skip=[])


def test_a_scenario_says_what_it_lacks_and_writes_its_files(tmp_path: Path) -> None:
    scenario = Scenario(
        "x", {"a/b.yaml": {"base": "$WORLD/base"}}, commands("merge '$WORLD/a b' -o out"), needs="nolib"
    )
    assert scenario.missing() == "nolib"
    scenario.write_files(tmp_path, Path("/world"))
    assert json.loads((tmp_path / "a" / "b.yaml").read_text()) == {"base": "/world/base"}
    assert scenario.commands[0].arguments(Path("/world")) == ["merge", "/world/a b", "-o", "out"]


# The server


def test_output_and_exit_code_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "x.output"
    code = run_command(folder=str(tmp_path), arguments=["mrege"], output=str(output), kill=None, is_fresh=True)
    assert code == 2
    assert output.read_text().startswith("$ aftermix mrege\nexit code 2\n--- stdout\n")
    assert "No such command 'mrege'" in output.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["x.output"]


def test_a_process_dies_at_the_write_that_completes_the_file(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from tools.byte_net.serve import die_when

folder = Path(sys.argv[1])
die_when(folder, "*.jsonl", 3)
with (folder / "a.jsonl").open("a") as file:
    for number in range(9):
        file.write(f"{number}\\n")
        file.flush()
        os.fsync(file.fileno())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "a.jsonl").read_text() == "0\n1\n2\n"
