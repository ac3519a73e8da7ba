from dataclasses import replace

import numpy as np
import pytest

from overread.confidence import combined
from overread.confidence.combined import DiceRegressor, Weighted, fit_regressor


def fit(scores: list[dict[str, float | None]], dice: list[float], **options: object) -> DiceRegressor:
    found = fit_regressor(scores, dice, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_one_score_by_hand() -> None:
    # score 0 and 1 by turns, Dice 0.4 and 0.8: mean 0.6, spread 0.5, centred column -1 and 1, so that the ridge of
    # penalty p shrinks the slope of 0.2 per spread to 0.2 / (1 + p)
    scores: list[dict[str, float | None]] = [{"c": float(i % 2)} for i in range(8)]
    found = fit(scores, [0.4 + 0.4 * (i % 2) for i in range(8)])
    assert found.penalty == 1e-3  # the data have no noise
    (own,) = found.scores
    assert (own.mean, own.spread, own.lowest, own.highest, own.gap) == (0.5, 0.5, 0.0, 1.0, None)
    assert own.coefficient == pytest.approx(0.2 / 1.001)
    assert found.predict({"c": 0.75}) == pytest.approx(0.6 + 0.1 / 1.001)
    assert found.error < 0.01
    # Leaving out one of four zeros and four ones predicts the mean of the others: 0.6 -+ 0.4 / 14
    assert found.error_of_mean == pytest.approx(0.2 + 0.4 / 14)


def test_predictions_are_dice() -> None:
    own = Weighted(name="c", mean=0.5, spread=0.1, lowest=0.2, coefficient=0.2, gap=None)
    model = DiceRegressor(intercept=0.6, scores=(own,), penalty=1.0, cases=9, groups=9, error=0.0, error_of_mean=0.0)
    assert (model.predict({"c": 0.9}), model.predict({"c": 0.1})) == (1.0, 0.0)
    assert model.predict({"c": 0.55, "other": 0.0}) == pytest.approx(0.7)
    assert DiceRegressor.from_json(model.to_json()) == model


def noisy(seed: int, n: int = 60) -> tuple[list[dict[str, float | None]], list[float]]:
    """Return three scores of unequal worth, and the Dice."""
    rng = np.random.default_rng(seed)
    dice = rng.uniform(0.2, 0.95, n)
    rows = [
        {
            "good": float(d + rng.normal(0, 0.08)),
            "fair": float(d + rng.normal(0, 0.15)),
            "wrong": float(-d + rng.normal(0, 0.05)),
        }
        for d in dice
    ]
    return rows, [float(d) for d in dice]  # type: ignore[return-value]


def test_combining_beats_each_score_and_no_score_is_turned_around() -> None:
    rows, dice = noisy(0)
    found = fit(rows, dice)
    weights = {own.name: own.coefficient for own in found.scores}
    assert weights["good"] > weights["fair"] > 0
    assert weights["wrong"] == 0  # falls with the Dice, and says it may not
    fresh, truth = noisy(1)
    alone = fit([{"good": row["good"]} for row in rows], dice)

    def error(model: DiceRegressor) -> float:
        return float(np.mean([abs(float(model.predict(r) or 0) - d) for r, d in zip(fresh, truth, strict=True)]))

    assert error(found) < error(alone) < 0.5 * found.error_of_mean
    assert error(found) == pytest.approx(found.error, rel=0.35)  # as promised by the groups left out


def test_monotone_in_every_score() -> None:
    rows, dice = noisy(2)
    found = fit(rows, dice)
    row = {"good": 0.5, "fair": 0.5, "wrong": -0.5}
    for name in row:
        assert float(found.predict(row | {name: row[name] + 0.1}) or 0) >= float(found.predict(row) or 0)


def test_either_sign_where_said() -> None:
    rows, dice = noisy(3)
    found = fit([{"wrong": row["wrong"]} for row in rows], dice, either_sign=["wrong"])
    assert found.scores[0].coefficient < -0.1
    assert found.error < 0.4 * found.error_of_mean


def test_gaps_seen_cost_what_they_were_worth() -> None:
    # Of twelve cases four lack the score and have Dice 0.2; the others have 0.8 whatever their score.
    scores: list[dict[str, float | None]] = [{"c": None if i % 3 == 0 else 0.5 + 0.1 * (i % 2)} for i in range(12)]
    found = fit(scores, [0.2 if i % 3 == 0 else 0.8 for i in range(12)])
    (own,) = found.scores
    assert own.gap == pytest.approx(-0.6, abs=0.01)
    assert found.predict({"c": 0.55}) == pytest.approx(0.8, abs=0.01)


def test_a_rare_gap_costs_what_it_was_worth_whatever_the_penalty() -> None:
    # Sixty cases whose Dice is the anchor; the other score says nothing, so that its penalty is high, and lacks in two.
    rng = np.random.default_rng(0)
    dice = [0.5 + 0.4 * i / 59 for i in range(60)]
    scores: list[dict[str, float | None]] = [{"anchor": d, "noise": float(rng.normal())} for d in dice]
    for i in (20, 41):
        scores[i]["noise"], dice[i] = None, dice[i] - 0.4
    found = fit(scores, dice, anchor="anchor")
    assert found.penalty >= 1
    assert found.scores[1].gap == pytest.approx(-0.4, abs=0.02)


def test_gaps_of_good_cases_do_not_make_a_case_safer() -> None:
    scores: list[dict[str, float | None]] = [{"c": None if i % 3 == 0 else 0.5 + 0.1 * (i % 2)} for i in range(12)]
    (own,) = fit(scores, [1.0 if i % 3 == 0 else 0.5 for i in range(12)]).scores
    assert own.gap == 0.0


def test_a_gap_not_seen_before_takes_the_lowest_value_and_no_score_at_all_predicts_nothing() -> None:
    rows, dice = noisy(4)
    found = fit(rows, dice)
    good = next(own for own in found.scores if own.name == "good")
    row: dict[str, float | None] = {"fair": 0.7, "wrong": -0.7}
    assert good.gap is None
    assert found.predict(row) == found.predict(row | {"good": good.lowest})
    assert found.predict({"good": None, "other": 1.0}) is None


def test_a_gap_not_seen_before_takes_the_highest_value_of_a_score_that_falls_with_the_dice() -> None:
    # The score runs from 0 to 1.1 and the Dice is 0.9 minus half of it: the worst case fitted on has 0.35.
    scores: list[dict[str, float | None]] = [{"parts": 0.1 * i, "flat": 0.01 * (i % 2)} for i in range(12)]
    found = fit(scores, [0.9 - 0.05 * i for i in range(12)], either_sign=["parts"])
    parts = found.scores[0]
    assert (parts.name, parts.gap) == ("parts", None) and parts.highest == pytest.approx(1.1)
    assert found.predict({"parts": None, "flat": 0.005}) == pytest.approx(0.35, abs=0.01)
    earlier = replace(parts, highest=None)  # of a package that does not tell it: as before, the mean
    assert earlier.part(None) == 0.0 and parts.part(None) == parts.part(1.1)


def test_what_says_nothing_is_left_out() -> None:
    rows, dice = noisy(5, 20)
    more = [row | {"flat": 1.0, "rare": 0.1 * i if i < 9 else None} for i, row in enumerate(rows)]
    assert [own.name for own in fit(more, dice).scores] == ["good", "fair", "wrong"]
    assert fit_regressor([{"flat": 1.0}] * 20, dice) is None
    assert fit_regressor([], []) is None


def test_too_few_groups() -> None:
    rows, dice = noisy(6, 20)
    assert fit_regressor(rows, dice, groups=[i % 4 for i in range(20)]) is None
    assert fit(rows, dice, groups=[i % 5 for i in range(20)]).groups == 5
    with pytest.raises(ValueError, match="scores, Dice and group"):
        fit_regressor(rows, dice, groups=["p"])


def test_the_error_is_of_groups_that_did_not_choose_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nine patients of two cases, scores that say little. By hand: each patient predicted by all that is done to the
    # others, the choice of the penalty included.
    rng = np.random.default_rng(1)
    dice = [float(value) for value in rng.uniform(0.3, 0.9, 18)]
    noise = {"a": 0.4, "b": 0.5, "c": 0.6, "d": 0.7}
    rows: list[dict[str, float | None]] = [
        {name: d + float(rng.normal(0, spread)) for name, spread in noise.items()} for d in dice
    ]
    groups = [i // 2 for i in range(18)]
    whole = fit(rows, dice, groups=groups)
    errors, chosen = [], set()
    for group in range(9):
        others = [i for i in range(18) if groups[i] != group]
        found = fit([rows[i] for i in others], [dice[i] for i in others], groups=[groups[i] for i in others])
        chosen.add(found.penalty)
        errors += [abs(float(found.predict(rows[i]) or 0) - dice[i]) for i in (2 * group, 2 * group + 1)]
    assert whole.error == pytest.approx(np.mean(errors))
    assert len(chosen) > 1
    monkeypatch.setattr(combined, "PENALTIES", (whole.penalty,))  # the figure of the penalty that looked best
    assert fit(rows, dice, groups=groups).error < whole.error


def test_groups_are_left_out_together() -> None:
    # Five patients of two cases each, Dice 0.1 to 0.5: without its patient the mean is 1.25 of the way from the case.
    dice = [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    scores: list[dict[str, float | None]] = [{"c": float(i % 2)} for i in range(10)]
    found = fit(scores, dice, groups=[i // 2 for i in range(10)])
    assert found.error_of_mean == pytest.approx(1.25 * (0.2 + 0.1 + 0 + 0.1 + 0.2) / 5)
    assert found.error >= found.error_of_mean - 1e-9  # the score says nothing


def test_the_anchor_pays_no_penalty_by_hand() -> None:
    # Dice = 0.2 + 0.6 pairwise exactly: any penalty is as good, so the largest is taken, which the anchor does not pay
    values = [0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 0.8, 0.4]
    noise = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.6, 0.4]
    rows: list[dict[str, float | None]] = [{"a": a, "n": n} for a, n in zip(values, noise, strict=True)]
    found = fit(rows, [0.2 + 0.6 * a for a in values], anchor="a")
    assert (found.anchor, found.penalty) == ("a", max(combined.PENALTIES))
    weights = {own.name: own.coefficient for own in found.scores}
    assert weights["a"] == pytest.approx(0.6 * np.std(values))
    assert weights["n"] == pytest.approx(0.0, abs=1e-6)
    assert found.predict({"a": 0.6, "n": 0.0}) == pytest.approx(0.56)


def test_scores_that_prove_nothing_leave_the_ranking_of_the_anchor() -> None:
    agree = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        dice = rng.uniform(0.3, 0.9, 20)
        rows = [{"a": float(d + rng.normal(0, 0.08))} | {f"n{i}": float(rng.normal()) for i in range(6)} for d in dice]
        fresh = [{"a": float(rng.uniform())} | {f"n{i}": float(rng.normal()) for i in range(6)} for _ in range(200)]
        given: dict[str, object] = {"either_sign": [f"n{i}" for i in range(6)]}
        order = np.argsort([row["a"] for row in fresh]).argsort()

        def rank_correlation(given: dict[str, object], rows=rows, dice=dice, fresh=fresh, order=order) -> float:  # type: ignore[no-untyped-def]
            found = fit(rows, [float(d) for d in dice], **given)
            predicted = [found.intercept + sum(w.part(row[w.name]) for w in found.scores) for row in fresh]
            return float(np.corrcoef(np.argsort(predicted).argsort(), order)[0, 1])

        agree.append((rank_correlation(given | {"anchor": "a"}), rank_correlation(given)))
    anchored, free = np.mean(agree, axis=0)
    assert anchored > 0.99
    assert anchored > free + 0.005


def test_what_one_standard_error_would_let_in_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten groups of two cases and five scores of noise: penalties below the largest are chance, rare at a level of 5 %.
    def chosen(seed: int) -> float:
        rng = np.random.default_rng(seed)
        dice = rng.uniform(0.5, 0.9, 20)
        rows = [{"a": float(d + rng.normal(0, 0.05))} | {f"n{i}": float(rng.normal()) for i in range(5)} for d in dice]
        free = [f"n{i}" for i in range(5)]
        groups = [i // 2 for i in range(20)]
        return fit(rows, [float(d) for d in dice], anchor="a", either_sign=free, groups=groups).penalty  # type: ignore[arg-type]

    proved = sum(chosen(seed) < max(combined.PENALTIES) for seed in range(30))
    monkeypatch.setattr(combined, "PROOF", 0.841)  # about one standard error
    assert proved <= 4
    assert sum(chosen(seed) < max(combined.PENALTIES) for seed in range(30)) >= 3 * max(proved, 1)


def test_a_size_beyond_those_fitted_on_counts_as_the_nearest_of_them() -> None:
    # Small findings have the higher Dice, down to 1.0 in size: one of -2 is no better for it, and one of 9 no worse.
    scores: list[dict[str, float | None]] = [{"a": 0.1 * (i % 3), "size": 1.0 + 0.1 * i} for i in range(12)]
    found = fit(scores, [0.9 - 0.03 * i for i in range(12)], either_sign=["size"])
    for inside, beyond in ((1.0, -2.0), (2.1, 9.0)):
        assert found.predict({"a": 0.1, "size": beyond}) == found.predict({"a": 0.1, "size": inside})
    low, high = (float(found.predict({"a": a, "size": 1.5}) or 0) for a in (-0.4, 0.9))
    assert low <= high and DiceRegressor.from_json(found.to_json()) == found


def test_a_score_that_proves_itself_joins_the_anchor() -> None:
    rows, dice = noisy(0)
    found = fit(rows, dice, anchor="fair")
    weights = {own.name: own.coefficient for own in found.scores}
    assert weights["good"] > weights["fair"] > 0
    assert found.penalty < max(combined.PENALTIES)
    assert fit(rows, dice, anchor="missing").anchor is None
