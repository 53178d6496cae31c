"""`aftermix iterate`: rounds of experts, search and merge; each is trained from the merge of the one before.

A round counts where its gain over its own base is sure: the lower end of the paired 90 % interval on test items is
above 0. Trainings and searches go on by themselves where they were left, so a round does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aftermix.config import Config, IterateConfig, as_yaml_values
from aftermix.errors import SearchError
from aftermix.jobs.iterate.gain import RoundGain, measure_gain
from aftermix.jobs.iterate.round_files import build_search_file, build_training_file, check_iteration
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.search.command import search
from aftermix.jobs.train.command import train
from aftermix.report.number_format import choose_scale
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.json_record import read_record
from aftermix.runs.records import BEST_FILE, MODEL_FOLDER
from aftermix.runs.rounds.iterate_records import ITERATE_FILE, IterateRecord, RoundRecord
from aftermix.runs.session import open_session

ROUNDS_FOLDER = "rounds"
EXPERTS_FOLDER = "experts"
RUN_FOLDER = "run"
Log = Callable[[str], None]


def iterate(config: Config, run: Path, *, resume: bool = False, log: Log = lambda _: None) -> IterateRecord:
    """Run the rounds of `config` in the folder `run`, and return what `iterate.json` in it says.

    Everything lies in RUN/rounds/NN: `experts/NAME`, and `run`, the search or mixture over them. `resume` goes on where
    a run was left, perhaps with more rounds. Raises :class:`AftermixError` with nothing written, and
    :class:`RunFailedError` once something is.
    """
    section = check_iteration(config)
    assert config.base is not None  # noqa: S101 - checked above; for the type checker
    with open_session(run, resume=resume) as session:
        if resume:
            _refuse_different(config, run)
            session.go_on()
            config.write(run / CONFIG_FILE)
        else:
            with session.begin():
                config.write(run / CONFIG_FILE)

        record = read_record(run / ITERATE_FILE, IterateRecord) or _build_record((), config.base, most=section.rounds)
        record = _build_record(record.rounds, config.base, most=section.rounds)
        while record.stopped is None:
            done = _run_round(config, run, number=len(record.rounds) + 1, base=record.model, log=log)
            record = _build_record((*record.rounds, done), config.base, most=section.rounds)
            record.write(run / ITERATE_FILE)
            log(describe_round(done))
        record.write(run / ITERATE_FILE)
    return record


def describe_round(done: RoundRecord) -> str:
    """A line on the gain of a round."""
    scale = choose_scale([done.base_score, done.score])
    before, after = (scale.format_plain(score) for score in (done.base_score, done.score))
    gain = scale.format_plain(done.gain, done.interval)
    verdict = "accepted" if done.accepted else "no sure gain: the last"
    return f"round {done.round}: {before} -> {after}, gain {gain} (90 %), {verdict}"


def _run_round(config: Config, run: Path, *, number: int, base: str, log: Log) -> RoundRecord:
    """Train the experts of a round, search their merge, and measure what it gained."""
    folder = run.absolute() / ROUNDS_FOLDER / f"{number:02}"
    origin = base if base == config.base else str(run.absolute() / base)
    log(f"round {number}: from {origin}")
    experts = train(build_training_file(config, origin), folder / EXPERTS_FOLDER, log=log)

    found = folder / RUN_FOLDER
    if not (found / BEST_FILE).is_file():
        job = mixture if config.mixture is not None else search
        begun = (found / CONFIG_FILE).is_file()
        job(build_search_file(config, origin, experts), found, resume=begun, log=log)

    gain: RoundGain = measure_gain(found)
    return RoundRecord(
        round=number,
        base=base,
        experts={name: str(path.relative_to(run.absolute())) for name, path in experts.items()},
        run=str(found.relative_to(run.absolute())),
        model=str((found / MODEL_FOLDER).relative_to(run.absolute())),
        base_score=gain.base,
        score=gain.merge,
        gain=gain.gain,
        interval=gain.interval,
        accepted=gain.is_sure,
    )


def _build_record(rounds: tuple[RoundRecord, ...], base: str, *, most: int) -> IterateRecord:
    accepted = [done.model for done in rounds if done.accepted]
    ended = bool(rounds) and not rounds[-1].accepted
    return IterateRecord(
        format="aftermix iterate",
        version=1,
        rounds=rounds,
        stopped="no sure gain" if ended else "rounds" if len(rounds) >= most else None,
        model=accepted[-1] if accepted else base,
    )


def _refuse_different(config: Config, run: Path) -> None:
    """Raise :class:`SearchError` where the file is not that of the run; the number of rounds may be another."""
    before, now = (
        as_yaml_values(each) | {"iterate": (each.iterate or IterateConfig()).model_dump(exclude={"rounds"})}
        for each in (read_run_config(run), config)
    )
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differing:
        found = f"was begun with another file: `{differing[0]}` differs"
        raise SearchError(str(run), found, "Name a new folder by -o, or restore the file.")
