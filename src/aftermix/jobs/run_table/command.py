"""`aftermix mixture --table CSV`: data ratios from a table of trained mixtures, without a model.

The table stands where the measured points of a mixture run do: surrogates by capability, chosen out of fold, the
optimum of the utility within the bounds, and an interval of each ratio. As its runs were really trained, what the
surrogates predict out of fold is held against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aftermix.checkpoints.writer import refuse_occupied, stage_folder
from aftermix.config import Config, EvaluateConfig, MixtureConfig, VectorConfig
from aftermix.errors import MixtureError
from aftermix.files import sha256
from aftermix.jobs.mixture.points import FittedSurrogates
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.proxies import SURROGATES, build_worth
from aftermix.jobs.mixture.result import describe_optimum, describe_surrogates
from aftermix.jobs.mixture.scores import describe_utility
from aftermix.mixture.optimum import find_best_measured, find_optimum
from aftermix.mixture.proxies.worth import ProxyForecast
from aftermix.mixture.simplex import Floats, name_shares
from aftermix.mixture.surrogates.run_table import RunTable
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS, Surrogate
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.mixture_records import TableMixtureRecord, TableRowRecord, TableSourceRecord
from aftermix.runs.records import BEST_FILE

NO_MODEL = "-"
"""In place of base and experts, which a table has none of."""


def mix_by_table(table: Path, output: Path, *, config: Config | None = None) -> Path:
    """Find the mixture of largest utility by the runs of the CSV `table`, and write `output`/best.json: its path.

    Columns are those of :class:`~aftermix.mixture.surrogates.run_table.RunTable`. `config` gives `mixture:` (utility,
    capabilities, bounds, pull) and, by name of the domain, `tokens` of its vectors. `output` is a new folder, which
    `aftermix export` and `train.datasets` take ratios from. Raises :class:`AftermixError` before anything is written.
    """
    refuse_occupied(output)
    runs = RunTable.parse(_read_table(table), where=str(table))
    problem = _build_problem(runs, config)
    _refuse_few(table, runs)

    record = _RunTableMixture.fit(runs, problem).build_record(_describe_source(table, runs))
    with stage_folder(output) as hidden:
        record.write(hidden / BEST_FILE)
    return output / BEST_FILE


@dataclass(frozen=True)
class _RunTableMixture:
    """A table with its surrogates and their optimum."""

    runs: RunTable
    problem: MixtureProblem
    fitted: FittedSurrogates
    utility: MixtureUtility

    @classmethod
    def fit(cls, runs: RunTable, problem: MixtureProblem) -> _RunTableMixture:
        scores_NT = problem.compute_scores(
            [dict(zip(runs.scores, row_T, strict=True)) for row_T in runs.scores_NT.tolist()]
        )
        seed, names = problem.mixture.seed, list(problem.columns)
        surrogate = Surrogate.fit(runs.shares_NK, scores_NT, seed=seed, capabilities=names, only=problem.regressor)
        fitted = FittedSurrogates(runs.shares_NK, scores_NT, surrogate, {})
        return cls(runs, problem, fitted, problem.build_utility(scores_NT))

    def build_record(self, source: TableSourceRecord) -> TableMixtureRecord:
        """All of `best.json`."""
        problem = self.problem
        goal = problem.build_goal(self.utility)
        optimum = find_optimum(self.fitted.surrogate, goal, problem.bounds, seed=problem.mixture.seed)
        return TableMixtureRecord(
            table=source,
            ratios=optimum.shares,
            ratios_note=None,
            capabilities={name: tuple(tasks) for name, tasks in problem.capabilities.items()},
            utility=describe_utility(self.utility),
            surrogates=describe_surrogates(self.fitted, problem, self.utility),
            optimum=describe_optimum(optimum, self.fitted, problem, goal),
            best_run=self._describe_best_run(),
            proxies=build_worth([self._forecast_held_out()], self.utility.values(self.fitted.scores_NM)),
        )

    def _describe_best_run(self) -> TableRowRecord | None:
        """The run of largest utility within the bounds."""
        place = find_best_measured(self.fitted.shares_NK, self.fitted.scores_NM, self.utility, self.problem.bounds)
        if place is None:
            return None
        value = float(self.utility.values(self.fitted.scores_NM[place : place + 1])[0])
        shares = name_shares(self.fitted.shares_NK[place], self.problem.domains)
        return TableRowRecord(line=place + 2, shares=shares, utility=value if np.isfinite(value) else None)

    def _forecast_held_out(self) -> ProxyForecast:
        held_out_NT: Floats = self.fitted.surrogate.held_out_RNM.mean(axis=0)
        return ProxyForecast(SURROGATES, self.utility.values(held_out_NT), 0)


def _read_table(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = f"expected a CSV in UTF-8, found {error}"
        raise MixtureError(str(table), found, "Name the table of your runs.") from error


def _describe_source(table: Path, runs: RunTable) -> TableSourceRecord:
    return TableSourceRecord(
        file=table.name,
        sha256=sha256(table),
        runs=len(runs.shares_NK),
        losses=tuple(sorted(runs.losses)),
        left_alone=runs.others,
        **({"empty": dict(runs.empty)} if runs.empty else {}),
    )


def _build_problem(runs: RunTable, config: Config | None) -> MixtureProblem:
    """The mixture problem whose points the table has measured."""
    section = config.mixture.model_dump(mode="json", exclude_unset=True) if config and config.mixture else {}
    if section.get("tree") is not None:
        raise MixtureError("mixture.tree", "is searched by merging, and a table has no merges", "Leave it out.")
    vectors = dict(config.vectors) if config else {}
    _refuse_unlike_domains(runs, [name for name, vector in vectors.items() if vector.role == "expert"])

    tokens = {name: vector.tokens for name, vector in vectors.items() if vector.tokens is not None}
    own = MixtureConfig.model_validate(section | {"points": _count_design(runs, config), "repeats": 0})
    filled = Config(
        base=NO_MODEL,
        vectors={name: VectorConfig(model=NO_MODEL, tokens=tokens.get(name)) for name in runs.domains},
        evaluate=EvaluateConfig.model_validate({"tasks": list(runs.scores)}),
        mixture=own,
    )
    return MixtureProblem.build_flat(filled, fitted="tasks")


def _count_design(runs: RunTable, config: Config | None) -> int:
    """Points of a design that nobody measures: as many as its checks ask for."""
    priors = config.mixture.priors if config and config.mixture else {}
    return FEWEST_POINTS + 2 + len(runs.domains) + len(priors)


def _refuse_unlike_domains(runs: RunTable, experts: list[str]) -> None:
    """Experts of a file are the domains of the table, or the file names none."""
    if experts and set(experts) != set(runs.domains):
        found = f"expected the domains of the table ({', '.join(runs.domains)}), found {', '.join(experts)}"
        lacking = [name for name in experts if name not in runs.domains]
        remedy = "Name the columns `share.NAME` after the vectors, or leave `vectors` out"
        added = f"; runs without '{lacking[0]}' get a column with empty cells, which count as 0" if lacking else ""
        raise MixtureError("vectors", found, f"{remedy}{added}.")


def _refuse_few(table: Path, runs: RunTable) -> None:
    needed = max(FEWEST_POINTS, len(runs.domains))
    distinct = len(np.unique(runs.shares_NK.round(9), axis=0))
    if distinct < needed:
        found = f"expected at least {needed} different mixtures for {len(runs.domains)} domains, found {distinct}"
        raise MixtureError(str(table), found, "Add runs, or join domains.")
