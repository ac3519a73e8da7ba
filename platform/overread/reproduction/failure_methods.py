"""The methods of the failure benchmark: whose mask, and which score of the case says how far to trust it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from overread.confidence.conformal import MeasuredCoverage
from overread.confidence.judgement import MEAN, VOLUME, Judgement, Known, fit_judgement
from overread.confidence.scores import ALL_EMPTY
from overread.data.corruptions import CLEAN
from overread.records import CaseConfidence
from overread.reproduction.failure_readings import COMPONENTS, EMPTY, at
from overread.reproduction.results import CaseMeasures, Findings, RowResult

SEEDS = tuple(f"U-Net, seed {number}" for number in range(1, 6))
SINGLE = SEEDS[0]
U_NETMER, DROPOUT, RELATION = "U-Netmer <1|2|4>", "U-Net with dropout", "Relation U-Net"
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "UNet#": ("unet_sharp", {"project_first": True}),
    "ConvUNeXt": ("conv_unext", {}),
    "DeepLabV3+": ("deeplab_v3_plus", {}),
}
"""Further members of the panel, by name of the row."""
FIVE_SEEDS, FIVE_ARCHITECTURES = "5 seeds", "5 architectures"
ENSEMBLES = {FIVE_ARCHITECTURES: (SINGLE, U_NETMER, *ARCHITECTURES), FIVE_SEEDS: SEEDS}
"""Members by name of the ensemble; one of the seeds is also the U-Net among the architectures."""
COMBINED, PAIRWISE = "predicted_dice", "pairwise_dice"
ALL_CLASSES = "all classes"
"""Stands for the labels where only their mean is judged."""


@dataclass(frozen=True)
class Method:
    """A row of the tables."""

    result: str
    """Row or ensemble whose mask is judged."""
    score: str
    """Its confidence."""
    words: str

    @property
    def title(self) -> str:
        """Name in tables."""
        return f"{self.result}: {self.words}"


METHODS = (
    Method(FIVE_ARCHITECTURES, PAIRWISE, "pairwise Dice"),
    Method(FIVE_ARCHITECTURES, "relation_confidence", "relation confidence"),
    Method(FIVE_ARCHITECTURES, COMBINED, "combined"),
    Method(FIVE_SEEDS, PAIRWISE, "pairwise Dice"),
    Method(FIVE_SEEDS, "relation_confidence", "relation confidence"),
    Method(FIVE_SEEDS, COMBINED, "combined"),
    Method(DROPOUT, PAIRWISE, "5 passes, pairwise Dice"),
    Method(DROPOUT, "mc_dropout_c", "5 passes, C"),
    Method(U_NETMER, PAIRWISE, "scales, mean C_ij"),
    Method(U_NETMER, "c_12", "scales, C_12"),
    Method(U_NETMER, "c_14", "scales, C_14"),
    Method(U_NETMER, "c_24", "scales, C_24"),
    Method(RELATION, "relation_unet_c", "relations, C"),
    Method(SINGLE, "entropy", "entropy"),
)
SHOWN = tuple(METHODS[i] for i in (0, 2, 3, 6, 8, 12, 13))
"""Those of the pictures and of the tables by corruption, one of each kind."""
SEEDS_ALONE = tuple(Method(name, "entropy", "entropy") for name in SEEDS)
"""The last of the methods with every seed: how much one training differs from the next."""


@dataclass(frozen=True)
class Scored:
    """What failure detection is computed of, one entry per case and condition."""

    confidence: list[float | None]
    dice: list[float]
    foreground: list[float]
    """Highest foreground probability: it ranks the cases without a confidence, as the review page does."""
    groups: list[Hashable]


class Bench:
    """The results of a benchmark, by method and condition."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        splits = findings.prepared.splits
        self.locked, self.calibration = frozenset(splits.locked), frozenset(splits.calibration)

    def methods(self, methods: Sequence[Method] = METHODS) -> list[Method]:
        """Return the methods whose rows are tested."""
        return [m for m in methods if m.result in self.findings.results and self._has(m)]

    def _has(self, method: Method) -> bool:
        if method.score == COMBINED:
            return self.judgement(method.result).targets[MEAN].regressor is not None
        return any(method.score in case.values for case in self.findings.results[method.result].cases)

    def cases(self, result: str, *, with_foreground: bool = False) -> list[CaseMeasures]:
        """Return the locked cases of a row or ensemble, all or those whose truth has foreground."""
        found = (case for case in self.findings.results[result].cases if case.case in self.locked)
        return [case for case in found if case.has_foreground or not with_foreground]

    def normal(self, result: str) -> int:
        """Return the number of locked cases of a row or ensemble whose truth has no foreground."""
        return sum(not case.has_foreground for case in self.cases(result))

    def scored(self, method: Method, conditions: Sequence[str], *, with_foreground: bool = False) -> Scored:
        """Return confidence and Dice of the locked cases in some conditions; a patient stays one group in all."""
        cases = self.cases(method.result, with_foreground=with_foreground)
        pairs = [(case, condition) for condition in conditions for case in cases]
        return Scored(
            [self._confidence(method, case, condition) for case, condition in pairs],
            [dice_in(case, condition) for case, condition in pairs],
            [case.values.get(at("foreground", condition)) or 0.0 for case, condition in pairs],
            [case.group for case, _ in pairs],
        )

    def _confidence(self, method: Method, case: CaseMeasures, condition: str) -> float | None:
        if method.score == COMBINED:
            return self.judgement(method.result).judge(row_of(case, condition)).predicted_dice
        return case.values.get(at(method.score, condition))

    @cached_property
    def _judgements(self) -> dict[str, Judgement]:
        return {}

    def judgement(self, ensemble: str) -> Judgement:
        """Return the combined score and the bound of an ensemble, from clean cases outside the locked split."""
        if ensemble not in self._judgements:
            known = self.known(self.findings.results[ensemble], CLEAN)
            self._judgements[ensemble] = fit_judgement(
                [k for k in known if k.row.case not in self.locked | self.calibration],
                [k for k in known if k.row.case in self.calibration],
                ("background",),  # the class mean alone
                winners=ensemble,
            )
        return self._judgements[ensemble]

    def coverage(self, ensemble: str, conditions: Sequence[str]) -> MeasuredCoverage | None:
        """Return how often the bound held on the locked cases, each in every condition; None without a bound."""
        judgement = self.judgement(ensemble)
        if judgement.targets[MEAN].bound.quantile is None:
            return None
        result = self.findings.results[ensemble]
        known = [
            replace(k, row=replace(k.row, case=f"{k.row.case} {condition}"))  # one of a group is drawn by its name
            for condition in conditions
            for k in self.known(result, condition)
            if k.row.case in self.locked
        ]
        return judgement.measure(known)[MEAN]

    def resplit(self, ensemble: str) -> float | None:
        """Return the mean coverage over 200 divisions of calibration and locked groups; None: too few."""
        known = self.known(self.findings.results[ensemble], CLEAN)
        calibration = [k for k in known if k.row.case in self.calibration]
        locked = [k for k in known if k.row.case in self.locked]
        return self.judgement(ensemble).remeasure(calibration, locked).get(MEAN)

    def known(self, result: RowResult, condition: str) -> list[Known]:
        """Return the cases of an ensemble that were read in a condition, with their true Dice."""
        return [
            Known(row_of(case, condition), case.group, dice_in(case, condition), {})
            for case in result.cases
            if at("class_dice", condition) in case.values
        ]


def dice_in(case: CaseMeasures, condition: str) -> float:
    """Return the class-mean Dice of a case in a condition."""
    value = case.values[at("class_dice", condition)]
    assert value is not None  # noqa: S101  (both empty is 1, one empty 0)
    return value


def row_of(case: CaseMeasures, condition: str) -> CaseConfidence:
    """Return the row of `confidence.csv` that an ensemble's figures make, without classes."""
    values = {name: case.values.get(at(name, condition)) for name in case.values if "@" not in name}
    own = {name: value for name, value in values.items() if name.startswith("c_") or name == "entropy"}
    volume = next(name for name in values if name.startswith(VOLUME))
    return CaseConfidence(
        case=case.case,
        n_readings=5,
        flag=ALL_EMPTY if values[EMPTY] else "",
        foreground=values["foreground"] or 0.0,
        relation_confidence=values["relation_confidence"],
        pairwise_dice=values[PAIRWISE],
        relation_confidence_per_class={},
        pairwise_dice_per_class={},
        scores=own,
        volume_unit=volume.removeprefix(VOLUME),
        volume_per_class={ALL_CLASSES: values[volume] or 0.0},
        components_per_class={ALL_CLASSES: int(values[COMPONENTS] or 0)},
    )
