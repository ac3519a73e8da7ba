"""The relation experiment on a phantom: two folds, every reading and confidence, tables and figures."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.store import open_case
from overread.errors import UserError
from overread.reproduction import PAPERS, relation_unet
from overread.reproduction.program import ReproductionSettings, _imported, reproduce
from overread.reproduction.results import CaseMeasures, Findings, RowResult

PAPER = PAPERS["relation_unet"]
CORE = (relation_unet.PLAIN, relation_unet.DROPOUT, relation_unet.RELATION)


def result(*cases: tuple[int, float, float]) -> RowResult:
    measures = tuple(
        CaseMeasures(case=f"c{i}", group=f"p{i}", has_foreground=True, values={"dice": d, "c": c}, fold=fold)
        for i, (fold, d, c) in enumerate(cases)
    )
    return RowResult(row="a", parameters=1, steps=1, seconds=1.0, epochs=(), cases=measures)


def test_correlations_are_computed_in_each_fold() -> None:
    rising = [(0, 0.1, 0.2), (0, 0.2, 0.3), (0, 0.3, 0.4)]
    falling = [(1, 0.9, 0.1), (1, 0.8, 0.2), (1, 0.7, 0.3)]
    found = relation_unet.fold_correlations(result(*falling, *rising), "c")
    assert found == pytest.approx([1.0, -1.0])  # in the order of the folds
    assert relation_unet.fold_correlations(result(*rising[:2]), "c") == []  # two points always lie on a line


def test_scores_are_compared_on_cases_that_have_all_of_them() -> None:
    values = {score.measure: 0.5 for score in relation_unet.FIGURE}
    whole = result((0, 0.9, 0.0), (0, 0.8, 0.0))
    whole = replace(whole, cases=tuple(replace(case, values=case.values | values) for case in whole.cases))
    first, second = whole.cases
    unsure = replace(whole, cases=(first, replace(second, values=second.values | {"entropy": None})))
    results = {score.row: unsure if score.row == relation_unet.PLAIN else whole for score in relation_unet.FIGURE}
    (only,) = relation_unet.shared_cases(SimpleNamespace(results=results))
    assert set(only) == {score.title for score in relation_unet.FIGURE}
    assert only[relation_unet.FIGURE[0].title] == (0.5, 0.9, "p0")


class Paired:
    """A case of 1 x 8 pixels, the first four foreground, whose anchors say so many of them."""

    case_id = "own"

    def __init__(self, **said: float) -> None:
        self.said, self.asked = said, 0

    def anchors(self, others: list[str]) -> list[str]:
        self.asked += 1
        return others

    def alternatives(self, anchors: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        for other in anchors:
            foreground = np.where(np.arange(8) < 2, 0.9, np.where(np.arange(8) < 4, self.said[other], 0.2))[None]
            yield f"anchor_{other}", np.stack([1 - foreground, foreground])

    def rates(self, mask: np.ndarray) -> dict[str, float | None]:
        return {"dice": 2 * int(mask[0, :4].sum()) / (int(mask.sum()) + 4)}


def test_the_anchors_are_averaged_before_and_after_the_threshold() -> None:
    # pixels 2 and 3: 0.4, 0.4 and 1 have the mean 0.6, so that all four are found; alone two find only two of four
    case: Any = Paired(a=0.4, b=0.4, c=1.0)
    found = relation_unet.read_with_anchors(case, "train", ["a", "own", "b", "c"])
    assert found == {"dice_train": 1.0, "single_dice_train": pytest.approx((2 / 3 + 2 / 3 + 1) / 3)}


def test_a_case_that_is_alone_in_its_fold_has_no_anchors() -> None:
    case: Any = Paired()
    assert relation_unet.read_with_anchors(case, "test", ["own"]) == {"dice_test": None, "single_dice_test": None}
    assert case.asked == 0


def findings_of(results: dict[str, RowResult]) -> Findings:
    """Return findings of results alone: no network can be opened."""
    prepared: Any = SimpleNamespace(dataset="drawn")
    return Findings(PAPER, "small", PAPER.protocols["small"], prepared, results=results)


def rising(row: str) -> RowResult:
    """Return a row of two folds of three cases whose every confidence rises with the Dice."""
    cases = []
    for i, dice in enumerate((0.5, 0.7, 0.9, 0.4, 0.6, 0.8)):
        values = {"dice": dice} | {score.measure: dice / 2 for score in relation_unet.CONFIDENCES if score.row == row}
        cases.append(CaseMeasures(case=f"c{i}", group=f"c{i}", has_foreground=True, values=values, fold=i // 3))
    return RowResult(row=row, parameters=1, steps=1, seconds=1.0, epochs=(), cases=tuple(cases))


@pytest.mark.parametrize("rows", list(chain.from_iterable(combinations(CORE, n) for n in range(4))), ids=" and ".join)
def test_any_of_the_core_rows_alone_give_tables_and_figures(rows: tuple[str, ...], tmp_path: Path) -> None:
    findings = findings_of({row: rising(row) for row in rows})
    grids = PAPER.exhibits(findings)
    confidences = next(grid for grid in grids if grid.title.startswith("Figure 4"))
    assert {title: r for title, r, *_ in confidences.rows} == {
        score.title: "1.000 ± 0.000 (2 folds)" if score.row in rows else "not trained here"
        for score in relation_unet.CONFIDENCES
    }
    names = [path.name for path in PAPER.pictures(findings, tmp_path)]
    assert names == (["fig04b-confidence.png", "fig04a-pearson.png", "fig05-coverage.png"] if rows else [])


def test_curves_are_means_over_folds_however_many_cases_they_have() -> None:
    def case(name: str, fold: int, dice: float, c: float) -> CaseMeasures:
        values = {"dice": dice, "mc_dropout_c": c}
        return CaseMeasures(case=name, group=name, has_foreground=True, values=values, fold=fold)

    cases = (case("a", 0, 0.5, 0.1), case("b", 0, 1.0, 0.9), case("c", 1, 0.4, 0.3))
    row = RowResult(row=relation_unet.DROPOUT, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)
    (series,) = relation_unet.coverage_series(findings_of({row.row: row})).values()
    # of the first fold the surer case up to half, then both; of the second always its only one
    assert [d for d, _ in series] == [float(d) for d in range(10, 101, 10)]
    assert [dice for _, dice in series] == pytest.approx([(1.0 + 0.4) / 2] * 5 + [(0.75 + 0.4) / 2] * 5)


def test_bars_are_means_over_the_folds_where_a_correlation_is_defined() -> None:
    row = rising(relation_unet.DROPOUT)
    falling = tuple(replace(c, values=c.values | {"mc_dropout_c": -c.dice}) for c in row.cases[3:])
    lone = replace(row.cases[0], fold=2)
    mixed = replace(row, cases=(*row.cases[:3], *falling, lone))
    assert relation_unet.mean_correlations(findings_of({row.row: mixed})) == {"MC dropout": pytest.approx(0.0)}


class Shown(Findings):
    """Findings whose cases are 1 x 2 pixels: the truth has the first, Possible both, Consensus none."""

    def shown_slice(self, case_id: str) -> tuple[np.ndarray, tuple[int, np.ndarray]]:
        return np.full((1, 2), int(case_id)), (0, np.array([[True, False]]))

    def opened(self, name: str, case_id: str) -> Any:
        possible, consensus = (np.stack([1 - m, m]) for m in (np.ones((1, 2)), np.zeros((1, 2))))
        readings = (("s1", consensus), ("possible", possible), ("consensus", consensus))
        return SimpleNamespace(alternatives=lambda: iter(readings))

    def slice_of(self, mask: np.ndarray, place: int) -> np.ndarray:
        return mask


@pytest.mark.parametrize(("cases", "shown"), [(5, [4, 3, 2, 1]), (12, [11, 10, 9, 8, 4, 3, 2, 1])])
def test_the_least_and_the_most_confident_cases_are_shown(cases: int, shown: list[int]) -> None:
    measures = tuple(  # the first has no C; the others are the surer the earlier they stand
        CaseMeasures(
            case=str(i), group=str(i), has_foreground=True, values={"relation_unet_c": (20 - i) / 20 if i else None}
        )
        for i in range(cases)
    )
    row = RowResult(row=relation_unet.RELATION, parameters=1, steps=1, seconds=1.0, epochs=(), cases=measures)
    whole = findings_of({})
    found = Shown(whole.paper, whole.size, whole.protocol, whole.prepared, results={row.row: row})
    panels = relation_unet.example_panels(found)
    assert [panel.title for panel in panels] == [f"{i}: C = {(20 - i) / 20:.2f}" for i in shown]
    for panel, i in zip(panels, shown, strict=True):
        assert panel.image.tolist() == [[i, i]]
        masks = {name: mask.tolist() for name, mask in panel.masks.items()}
        assert masks == {"truth": [[True, False]], "Possible": [[True, True]], "Consensus": [[False, False]]}


@pytest.fixture
def tiny_paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shrink the experiment: the core rows, few steps of 32 pixels, two folds, three anchors, four passes."""
    small = replace(
        relation_unet.PROTOCOLS["small"],
        max_side=32,
        width=1 / 16,
        steps=30,
        batch_size=8,
        validations=1,
        folds=2,
        anchors=3,
    )
    rows = tuple(
        replace(row, read_options={"passes": 4}) if row.read_options else row
        for row in PAPERS["relation_unet"].rows
        if row.core
    )
    paper = replace(PAPERS["relation_unet"], rows=rows, protocols={"small": small})
    monkeypatch.setitem(PAPERS._entries, "relation_unet", paper)
    yield


@pytest.mark.ray
def test_every_case_is_read_by_the_network_that_did_not_see_it(tmp_path: Path, tiny_paper: None) -> None:
    data = write_phantom(tmp_path / "Hippocampus-phantom", PhantomSettings(cases=8, size=32, seed=1))
    settings = ReproductionSettings(paper="relation_unet", data=data, out=tmp_path / "out", cache=tmp_path / "cache")
    with session(num_cpus=2):
        found = reproduce(settings, ray_map)
    assert tuple(found.results) == CORE
    splits = found.prepared.splits
    assert splits.locked == () and splits.calibration == ()
    for row in CORE:
        assert [config.fold for config, _ in found.networks[row]] == [0, 1]
        cases = found.results[row].cases
        assert sorted(case.case for case in cases) == sorted(case.id for case in found.prepared.cases)
        assert all(case.case in splits.folds[case.fold] for case in cases)
    own = found.results[relation_unet.RELATION].cases[0].values
    readings = {f"dice_{name}" for name in ("s1", "s2", "possible", "consensus", "train", "test")}
    assert readings | {"single_dice_train", "relation_unet_c", "entropy", "sa_mean"} <= set(own)
    assert "mc_dropout_c" in found.results[relation_unet.DROPOUT].cases[0].values
    dropout = found.opened(relation_unet.DROPOUT, splits.folds[1][0])
    others = found.opened(relation_unet.RELATION, splits.folds[0][0])
    anchors = others.anchors(splits.folds[0]).images
    assert anchors.shape == (3, 1, 32, 32)  # as many as the protocol says
    slices = {s.tobytes() for case in splits.folds[0][1:] for s in np.array(open_case(found.prepared, case).image)[0]}
    assert all(image.numpy().tobytes() in slices for image in anchors)  # of other cases
    with pytest.raises(UserError, match="anchors must be of other cases"):
        others.anchors(splits.folds[0][:1])
    imported = _imported("truth", data / "masks", found.prepared, found.protocol)
    assert imported.fold_means("dice") == [1.0, 1.0] and len(imported.cases) == 8
    assert dropout.config.fold == 1 and dropout.config.options["passes"] == 4  # read with others than trained
    tables = sorted((tmp_path / "out" / "tables").glob("*.csv"))
    rows = {row[0]: row for row in csv.reader(tables[0].open())}
    assert rows["U-Net"][1].endswith("(2 folds)") and rows["U-Net"][-1] == "82.76±0.42"
    report = (tmp_path / "out" / "report.md").read_text()
    assert "2 folds of groups" in report
    for figure in ("fig04a", "fig04b", "fig05", "training-curves"):
        assert list((tmp_path / "out" / "figures").glob(f"{figure}*.png")), figure
