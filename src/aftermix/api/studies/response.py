"""The response of a study: points that it proposes, scores that it predicts, and what is certain of the best point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aftermix.api.shown_scores import PredictedMerge
from aftermix.config import SearchConfig
from aftermix.errors import SearchError
from aftermix.jobs.search.predict import predict_point
from aftermix.jobs.search.response_stage import ResponseStage
from aftermix.response.response_model import LEAST_MERGES
from aftermix.runs.answers.certificate_records import CertificateRecord
from aftermix.runs.trials import Point, Suggestion, Trial
from aftermix.search.batches import ProposeBatch
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.response_fit import build_coordinates
from aftermix.search.proposing.response_proposer import ResponseProposer
from aftermix.search.space import SearchSpace


@dataclass(frozen=True)
class StudyResponse:
    """The response to the `trials` that a study was told."""

    proposer: ResponseProposer
    trials: Sequence[Trial]

    @staticmethod
    def open(
        folder: Path,
        trials: Sequence[Trial],
        *,
        config: SearchConfig,
        space: SearchSpace,
        normalised: bool,
        objectives: ObjectiveSet,
        tasks: tuple[str, ...],
        fall_back: ProposeBatch,
    ) -> StudyResponse:
        """That of the study in `folder`, whose merges divide by the sum of their weights where it is `normalised`."""
        proposer = ResponseProposer(
            run=folder,
            space=space,
            coordinates=build_coordinates(space, normalised=normalised),
            config=config,
            objectives=objectives,
            tasks=tasks,
            fall_back=fall_back,
            ends=False,
        )
        return StudyResponse(proposer, trials)

    def suggest(self, count: int, open_points: Sequence[Point]) -> list[Suggestion]:
        """The next `count` points, in view of those that are asked for and not yet told."""
        suggestions: list[Suggestion] = []
        while len(suggestions) < count:  # the end of the first design is a batch of its own
            running = [*open_points, *(suggestion.point for suggestion in suggestions)]
            batch = self.proposer.propose(self.trials, count - len(suggestions), running)
            if not batch:
                break
            suggestions += batch
        return suggestions

    def predict(self, point: Point) -> PredictedMerge:
        """Scores of the merge at `point`. Raises :class:`SearchError` for fewer than four points with likelihoods."""
        fitted = self.proposer.fit(self.trials)
        if fitted is None:
            found = f"expected {LEAST_MERGES} points with log-likelihoods, found fewer"
            raise SearchError("study", found, "Ask for more, and tell them.")

        inside = self.proposer.space.contains(point.weights, point.settings)
        record = predict_point(point, fitted.model, fitted.coordinates, objectives=fitted.objectives, inside=inside)
        return PredictedMerge.model_validate(record.model_dump(exclude_unset=True))

    def certify(self, best: Trial | None) -> CertificateRecord:
        """The certificate of `best` against all merges within the ranges."""
        stage = ResponseStage(self.proposer)
        return stage.certify(stage.judge(self.trials), -1 if best is None else best.number)
