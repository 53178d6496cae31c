"""A merge whose disk, inputs or process fail: one clear error, nothing half-done, and the next run starts clean."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file

from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.writer import stage_folder
from aftermix.cli import main
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, CheckpointError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge, write_model
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from support.forked import COMMAND, ForkedProcess, run_forked

Family = Mapping[str, Path]
Copy = Callable[[str], Path]
PAUSED = """
import sys
import aftermix.jobs.merge.command as job
whole = job.stream_merged_pieces
def paused(*arguments, **options):
    for number, piece in enumerate(whole(*arguments, **options)):
        if number == 7:
            print("now", flush=True)
            sys.stdin.read()
        yield piece
job.stream_merged_pieces = paused
from aftermix.cli import main
main()
"""
"""A real `aftermix merge` that stands still in the middle of its work until its standard input ends."""
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def written_file(folder: Path, base: Path, expert: Path) -> Path:
    path = folder / "merge.yaml"
    path.write_text(json.dumps({"base": str(base), "vectors": {"b": {"model": str(expert)}}}))
    return path


@pytest.fixture
def file(tmp_path: Path, family: Family) -> Path:
    return written_file(tmp_path, family["base"], family["b"])


def run(*arguments: object, program: str = COMMAND) -> subprocess.CompletedProcess[str]:
    return run_forked(program, "merge", *arguments)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one message of a command that failed, after its progress bar."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("aftermix: ") == 1, done.stderr
    return done.stderr[done.stderr.index("aftermix: ") :]


def test_a_file_that_may_not_grow_is_one_error(file: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    done = run(file, "-o", tmp_path / "deep" / "out", program=f"{limit}\n{COMMAND}")
    assert done.returncode == 2
    expected = rf"{tmp_path}/deep/out: cannot be written (File too large). Free space or choose another folder"
    assert expected in complaint(done)
    assert not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize(
    ("mount", "reason"), [("size=32k", "No space left on device"), ("ro,size=1m", "Read-only file system")]
)
def test_a_full_and_a_read_only_disk_are_one_error(mount: str, reason: str, file: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    place = shlex.quote(str(disk))
    mounting = f"mount -t tmpfs -o {mount} none {place}"
    if (
        not shutil.which("unshare")
        or subprocess.run([*IN_A_NAMESPACE, mounting], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system may be mounted here")
    script = f'{mounting}; "$@"; code=$?; ls -A {place}; exit $code'
    command = [*IN_A_NAMESPACE, script, "sh", sys.executable, "-c", COMMAND]
    command += ["merge", str(file), "-o", str(disk / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2, done.stderr
    assert f"{disk}/out: cannot be written ({reason})" in complaint(done)
    assert done.stdout == "", "something was left"


def test_a_file_in_the_way_is_one_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("mine")
    done = run(file, "-o", tmp_path / "in-the-way" / "out")
    assert done.returncode == 2
    assert "cannot be written (File exists)" in complaint(done)
    done = run(file, "-o", tmp_path / ("x" * 300))
    assert done.returncode == 2
    assert "cannot be written (File name too long)" in complaint(done)
    assert (tmp_path / "in-the-way").read_text() == "mine"


def opened(base: Path, expert: Path) -> tuple[Config, ModelPool]:
    config = Config(base=str(base), vectors={"b": VectorConfig(model=str(expert))})
    return config, open_pool(config)


def deleted(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    with file.open("r+b") as content:
        content.truncate(5000)


def replaced(file: Path) -> None:
    other = file.with_name("other")
    shutil.copy(file, other)
    other.replace(file)


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (deleted, r"model\.safetensors.*(cannot be read|is no longer)"),
        (truncated, r"model\.safetensors: has changed since it was opened\. Restore its content if"),
        (replaced, r"model\.safetensors: has changed since it was opened"),
    ],
)
@pytest.mark.parametrize("read_before", [False, True])
def test_an_input_that_changes_after_it_was_opened_is_refused(
    happens: Callable[[Path], None], message: str, read_before: bool, copied: Copy, family: Family, tmp_path: Path
) -> None:
    expert = copied("b")
    config, pool = opened(family["base"], expert)
    if read_before:
        pool.experts["b"].read_block("model.norm.weight", (0, 4))
    happens(expert / "model.safetensors")
    merger = Merger.build(pool, MergeRecipe.from_config(config.merge))
    with pytest.raises(CheckpointError, match=message):
        write_model(merger, {"b": 1.0}, config=config, output=tmp_path / "deep" / "out")
    assert not list(tmp_path.glob("deep/*"))


def test_a_configuration_that_vanishes_is_one_error(copied: Copy, family: Family, tmp_path: Path) -> None:
    base = copied("base")
    config, pool = opened(base, family["b"])
    (base / "config.json").unlink()
    merger = Merger.build(pool, MergeRecipe.from_config(config.merge))
    with pytest.raises(CheckpointError, match=r"copy-of-base/config\.json: cannot be read \(No such file"):
        write_model(merger, {"b": 1.0}, config=config, output=tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_a_file_cut_short_between_doctor_and_merge_is_refused(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("b")
    config = Config(base=str(family["base"]), vectors={"b": VectorConfig(model=str(expert))})
    assert doctor(config).problems == []
    truncated(expert / "model.safetensors")
    with pytest.raises(AftermixError, match=r"model\.safetensors: is truncated or not a safetensors file"):
        merge(config, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def paused(file: Path, output: Path) -> ForkedProcess:
    """A merge that has written a part of its weights and waits."""
    process = ForkedProcess(PAUSED, "merge", file, "-o", output)
    assert process.stdout.readline() == b"now\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_merge_leaves_no_model(number: signal.Signals, code: int, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "results" / "out"
    process = paused(file, output)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert not output.exists()
    assert not list(output.parent.rglob("config.json"))
    if number == signal.SIGINT:
        assert errors.endswith(b"aftermix: interrupted\n")
        assert not list(output.parent.iterdir())
    assert run(file, "-o", output).returncode == 0
    assert list(output.parent.iterdir()) == [output]  # what a killed run left is gone too


def test_of_two_merges_into_one_folder_the_first_to_end_wins(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "results" / "out"
    slow = paused(file, output)
    assert run(file, "-o", output).returncode == 0
    kept = {path.name: path.read_bytes() for path in output.iterdir()}
    _, errors = slow.communicate()
    assert slow.returncode == 2
    assert f"{output}: cannot be written (Directory not empty)".encode() in errors
    assert {path.name: path.read_bytes() for path in output.iterdir()} == kept
    assert list(output.parent.iterdir()) == [output]


def test_an_output_that_touches_an_input_is_refused(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("b")
    before = {path: path.stat().st_mtime_ns for path in expert.iterdir()}
    (tmp_path / "link").symlink_to(expert)
    (tmp_path / "loop").symlink_to("loop")
    config = Config(base=str(family["base"]), vectors={"b": VectorConfig(model=str(expert))})
    for output, message in (
        (expert, "lies in the input folder"),
        (expert / "inside" / "deeper", "lies in the input folder"),
        (tmp_path / "link", "lies in the input folder"),
        (tmp_path / "link" / "inside", "lies in the input folder"),
        (expert / ".." / expert.name, "lies in the input folder"),
        (expert.parent, "exists and is not empty"),
        (family["base"], "lies in the input folder"),
        (tmp_path / "loop", "is a link that leads to itself|cannot be written"),
    ):
        with pytest.raises(CheckpointError, match=message):
            merge(config, output)
    assert {path: path.stat().st_mtime_ns for path in expert.iterdir()} == before


def test_an_output_may_be_a_link_or_the_present_folder(
    file: Path, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = opened(family["base"], family["b"])
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/out")
    monkeypatch.chdir(tmp_path / "here")
    for output, written in ((Path(), tmp_path / "here"), (tmp_path / "link", tmp_path / "elsewhere" / "out")):
        merge(config, output)
        assert load_file(written / "model.safetensors")
        assert (written / "config.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_a_full_disk_in_any_other_place_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["aftermix", "report", str(tmp_path)])

    def full(_: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "report.html"))

    monkeypatch.setattr("aftermix.report.page.write_report", full)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2  # nothing was written
    assert capsys.readouterr().err == f"aftermix: {tmp_path}/report.html: No space left on device\n"


def test_only_what_was_left_of_this_output_is_removed(family: Family, tmp_path: Path) -> None:
    config, _ = opened(family["base"], family["b"])
    host, gone = socket.gethostname(), ended_process()
    names = [f".*.incomplete-{host}-{gone}", f".*.incomplete-{host}-{os.getpid()}1x", f".b.incomplete-{host}-{gone}"]
    for name in [*names, f".*.incomplete-elsewhere-{gone}"]:
        (tmp_path / name).mkdir()
    merge(config, tmp_path / "*")
    assert {path.name for path in tmp_path.iterdir()} == {"*", *names[1:], f".*.incomplete-elsewhere-{gone}"}


def ended_process() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_two_writers_of_one_process_do_not_remove_each_others_work(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "out") as hidden:
        (hidden / "config.json").write_text("{}")
        with (
            pytest.raises(CheckpointError, match=r"cannot be written \(File exists\)"),
            stage_folder(tmp_path / "out"),
        ):
            pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]
