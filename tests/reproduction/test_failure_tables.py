"""Methods and tables of the failure benchmark on results worked by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from overread.data.corruptions import CLEAN, conditions
from overread.reproduction.failure_methods import (
    ENSEMBLES,
    FIVE_ARCHITECTURES,
    FIVE_SEEDS,
    METHODS,
    PAIRWISE,
    SINGLE,
    Bench,
    Method,
    row_of,
)
from overread.reproduction.failure_readings import at
from overread.reproduction.failure_tables import (
    condition_table,
    coverage_table,
    detection_table,
    difference_table,
    memory_tables,
)
from overread.reproduction.results import CaseMeasures, RowResult

LOCKED = tuple(f"l{i}" for i in range(40))
CALIBRATION = tuple(f"c{i}" for i in range(20))
FOLD = tuple(f"f{i}" for i in range(20))


def measures(case: str, rng: np.random.Generator, noise: float) -> CaseMeasures:
    """Return a case whose pairwise Dice follows its Dice, by `noise` apart, worse where it is corrupted."""
    values: dict[str, float | None] = {}
    for condition in conditions() if case in LOCKED else (CLEAN,):
        dice = float(rng.uniform(0.3, 1.0)) - (0.0 if condition == CLEAN else 0.2)
        pairwise = dice + float(rng.normal(0, noise))
        own = {"class_dice": dice, PAIRWISE: pairwise, "relation_confidence": pairwise - 0.1, "entropy": -0.1,
               "foreground": 0.9, "all_empty": 0.0, "volume_ml": 8.0, "components": 3.0}  # fmt: skip
        values |= {at(name, condition): value for name, value in own.items()}
    return CaseMeasures(case=case, group=case, has_foreground=True, values=values)


def result(name: str, noise: float) -> RowResult:
    rng = np.random.default_rng(0)
    cases = tuple(measures(case, rng, noise) for case in (*LOCKED, *CALIBRATION, *FOLD))
    return RowResult(row=name, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)


@pytest.fixture
def bench() -> Bench:
    results = {FIVE_ARCHITECTURES: result(FIVE_ARCHITECTURES, 0.02), FIVE_SEEDS: result(FIVE_SEEDS, 0.2)}
    splits = SimpleNamespace(locked=LOCKED, calibration=CALIBRATION, folds=(FOLD,))
    findings: Any = SimpleNamespace(
        results=results | {SINGLE: result(SINGLE, 0.1)},
        prepared=SimpleNamespace(splits=splits),
        combined=None,
        failure_dice=None,
    )
    return Bench(findings)


def test_methods_are_distinct_and_pairwise_dice_is_judged_by_its_own_mask(bench: Bench) -> None:
    assert len({m.title for m in METHODS}) == len(METHODS)
    scored = bench.scored(Method(FIVE_SEEDS, PAIRWISE, ""), [CLEAN, "blur-1"])
    assert len(scored.dice) == 2 * len(LOCKED) and len(set(scored.groups)) == len(LOCKED)
    case = bench.cases(FIVE_SEEDS)[0]
    assert scored.dice[0] == case.values["class_dice"] and scored.confidence[40] == case.values["pairwise_dice@blur-1"]


def test_the_row_of_a_case_is_what_the_platform_judges(bench: Bench) -> None:
    row = row_of(bench.cases(FIVE_SEEDS)[0], "blur-1")
    assert (row.volume_unit, sum(row.volume_per_class.values()), sum(row.components_per_class.values())) == ("ml", 8, 3)
    assert row.scores == {"entropy": -0.1}


def test_a_case_that_nobody_marks_has_no_combined_score(bench: Bench) -> None:
    case = bench.cases(FIVE_SEEDS)[0]
    empty = CaseMeasures(case="e", group="e", has_foreground=True, values=dict(case.values) | {"all_empty": 1.0})
    judgement = bench.judgement(FIVE_SEEDS)
    assert judgement.judge(row_of(case, CLEAN)).predicted_dice is not None
    assert judgement.judge(row_of(empty, CLEAN)).predicted_dice is None


def test_detection_ranks_the_truer_score_first(bench: Bench) -> None:
    table = detection_table(bench, CLEAN, [CLEAN])
    rows = {row[0]: row for row in table.rows}
    assert len(rows) == len(METHODS) and {len(row) for row in table.rows} == {len(table.columns)}
    sharp, blunt = (float(rows[f"{name}: pairwise Dice"][3]) for name in (FIVE_ARCHITECTURES, FIVE_SEEDS))
    assert 0 <= sharp < blunt  # e-AURC
    assert rows["Relation U-Net: relations, C"][1] == "not trained here"
    dice = [case.values["class_dice"] or 0.0 for case in bench.cases(FIVE_SEEDS)]
    failures = sum(value < 0.7 for value in dice)
    assert rows["5 seeds: pairwise Dice"][5].endswith(f", {failures} of 40")


def test_a_failure_is_what_the_user_says(bench: Bench) -> None:
    usual = detection_table(bench, CLEAN, [CLEAN])
    assert [c for c in usual.columns if c.startswith("AUROC")] == ["AUROC, Dice < 0.7", "AUROC, Dice < 0.5"]
    bench.findings.failure_dice = 0.9  # type: ignore[misc]
    table = detection_table(bench, CLEAN, [CLEAN])
    assert [c for c in table.columns if c.startswith("AUROC")] == ["AUROC, Dice < 0.9"]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    failures = sum((case.values["class_dice"] or 0.0) < 0.9 for case in bench.cases(FIVE_SEEDS))
    rows = {row[0]: row for row in table.rows}
    assert rows["5 seeds: pairwise Dice"][5].endswith(f", {failures} of 40")


def test_differences_are_paired_and_of_the_upper_end(bench: Bench) -> None:
    table = difference_table(bench)
    rows = {(row[0], row[1]): row for row in table.rows}
    found = rows["5 architectures: pairwise Dice minus 5 seeds: pairwise Dice", CLEAN]
    assert float(found[4].split(" ")[0]) == pytest.approx(float(found[2]) - float(found[3]), abs=2e-4)
    assert float(found[4].split(" ")[0]) < 0 and found[5].endswith("%")
    assert ("5 seeds: combined minus 5 seeds: pairwise Dice", "clean and corrupted") in rows


def test_coverage_is_promised_for_clean_cases_alone(bench: Bench) -> None:
    rows = [row for row in coverage_table(bench).rows if row[0] == FIVE_ARCHITECTURES]
    resplit, clean, *corrupted = rows
    assert 85 <= float(resplit[2].rstrip(" %")) <= 97
    expected = float(resplit[3].removesuffix(" % expected of any package"))
    assert float(resplit[2].rstrip(" %")) == pytest.approx(expected, abs=3)
    assert clean[1] == CLEAN and clean[4] == "40" and " to " in clean[3]
    assert [row[3] for row in corrupted] == ["not promised"] * 3


def test_conditions_have_a_row_each(bench: Bench) -> None:
    table = condition_table(bench)
    assert [row[0] for row in table.rows] == list(conditions())
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert all(f"Dice, {name}" in table.columns for name in ENSEMBLES)
    assert memory_tables(bench.findings) == ()
