"""UGS-Net's experiments: what a case is measured by, against drawings; the tables and figures of tiny networks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from overread.architectures.contract import Losses, Segmenter, build_segmenter
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.errors import UserError
from overread.records import (
    Batch,
    Needs,
    Prepared,
    PreparedCase,
    PrepareSettings,
    Preprocessing,
    Readings,
    Splits,
    TrialConfig,
    Variant,
)
from overread.reproduction import PAPERS, ugsnet_figures, ugsnet_measures, ugsnet_tables
from overread.reproduction.configs import options_at, row_config
from overread.reproduction.cost import published_parameters, published_setting
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import Paper
from overread.reproduction.printed import printed
from overread.reproduction.program import ReproductionSettings, check_baseline, choose_rows, reproduce
from overread.reproduction.results import CaseMeasures, Findings, RowResult

PAPER = PAPERS["ugsnet"]
CORE = ["Attention U-Net", "UGS-Net-V1", "UGS-Phi_a+Phi_b", "UGS-Net"]


def test_rows_differ_in_their_ablation_alone() -> None:
    assert [row.name for row in choose_rows(PAPER, ["core"])] == CORE
    ours = {row.name: options_at(row, 0.25, {"attention_pool": 2}) for row in PAPER.rows if row.name.startswith("UGS")}
    assert {(o["v1_compat"], o["width"], o["attention_pool"]) for o in ours.values()} == {(False, 16, 2)}
    switches = {name: (o["iucm"], o["phi_a"], o["phi_b"]) for name, o in ours.items()}
    assert len(set(switches.values())) == len(switches) == 6
    assert switches["UGS-Net-V1"] == (False, False, False) and switches["UGS-Net"] == (True, True, True)


def test_published_parameters_are_those_of_the_registered_networks() -> None:
    counts = {row.name: published_parameters(row) for row in PAPER.rows if row.architecture == "ugs_net"}
    assert counts == dict.fromkeys(("UGS-Net-V1", "UGS-Phi_a", "UGS-Phi_b", "UGS-Phi_a+Phi_b"), 35_069_675) | {
        "UGS-IUCM": 35_141_355,  # as V1 of three windows
        "UGS-Net": 35_140_203,  # of one channel
    }
    assert (
        published_setting(PAPER.row("UGS-IUCM")).in_channels,
        published_setting(PAPER.row("U-Net")).in_channels,
    ) == (3, 1)


def test_comparators_learn_from_the_first_annotation_and_ours_from_all(findings: Findings) -> None:
    configs = {name: networks[0][0] for name, networks in findings.networks.items()}
    assert {name: config.annotations for name, config in configs.items()} == dict.fromkeys(CORE, "all") | {
        "Attention U-Net": "first"
    }
    comparators = [row for row in PAPER.rows if row.architecture != "ugs_net"]
    assert len(comparators) == 7 and {row.annotations for row in comparators} == {"first"}


def test_printed_figures_are_means_of_their_folds_with_the_population_deviation() -> None:
    found = printed("ugsnet")
    for metric, mean, deviation in (("dice", 87.65, 0.57), ("jaccard", 78.78, 0.83), ("nsd", 95.62, 0.59)):
        folds = [found["I", "UGS-Net", f"fold {k}", metric][0] for k in range(1, 6)]
        assert found["I", "UGS-Net", "LIDC", metric] == (mean, deviation)
        assert (fmean(folds), pstdev(folds)) == (pytest.approx(mean, abs=0.006), pytest.approx(deviation, abs=0.006))
    assert found["II", "UGS-Phi_a+Phi_b", "LIDC", "dice"] == (87.62, 0.54)
    assert found["III", "UGS-Net", "<= 0.6", "jaccard"] == (44.44, None)


# ---------------------------------------------------------------- measures of a drawn case

LINES = np.zeros((4, 1, 8), np.uint8)
for annotator, length in enumerate((0, 2, 4, 5)):  # the first drew nothing
    LINES[annotator, :, :length] = 1


class Said(Segmenter):
    """Reads given probabilities (H, W) of the foreground, by name."""

    def __init__(self, said: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.said, self.needs, self.classes = said, Needs(), 2
        self.reads = 0

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        raise NotImplementedError

    def read(self, batch: Batch, *, variant: Variant | None = None, anchors: Any = None, generator: Any = None):
        self.reads += 1
        found = {name: torch.from_numpy(np.stack([1 - p, p])[None].astype(np.float32)) for name, p in self.said.items()}
        main = found.pop("main")

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            yield from found.items()

        return Readings(probabilities=main, alternatives=alternatives)


def case_of(folder: Path, labels: np.ndarray, said: Mapping[str, np.ndarray]) -> TestCase:
    """Return a case of 1 x 8 pixels whose intensity is -1000, -900, ... -300, drawn by `labels` (A, 1, 8)."""
    arrays = folder / "cases" / "00000"
    arrays.mkdir(parents=True)
    np.save(arrays / "image.npy", np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8))
    np.save(arrays / "native.npy", 100 * np.arange(8, dtype=np.int16).reshape(1, 1, 8) - 1000)
    np.save(arrays / "labels.npy", labels[:, None])
    np.save(arrays / "truth.npy", labels[-1])
    np.save(arrays / "annotations.npy", labels)
    record = PreparedCase(
        index=0,
        id="c",
        group="c",
        native_shape=(1, 8),
        shape=(1, 1, 8),
        spacing=(2.0, 0.5),
        annotators=tuple(f"a{i}" for i in range(len(labels))),
        foreground=(1,),
    )
    prepared = Prepared(
        root=str(folder),
        dataset="drawn",
        label_names=("background", "nodule"),
        label_values=(0, 1),
        settings=PrepareSettings(),
        preprocessing=Preprocessing(channels=("x",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=8),
        cases=(record,),
        splits=Splits(locked=(), calibration=(), folds=()),
        content="",
    )
    config = TrialConfig(architecture="drawn", options={}, in_channels=1, classes=2, patch_size=(1, 8), steps=1)
    return TestCase("r", Said(said), config, prepared, "c", PAPER.protocols["small"], "cpu")


def line(length: int, probability: float = 1.0) -> np.ndarray:
    return np.where(np.arange(8) < length, probability, 0.0)[None]


def test_a_case_is_measured_against_those_who_drew(tmp_path: Path) -> None:
    said = {"main": line(4), "annotators": line(4), "union": line(6, 0.8), "intersection": line(2, 0.9)}
    case = case_of(tmp_path, LINES, said)
    values = PAPER.measure(case)
    assert values["annotators"] == 3
    assert values["first_dice"] == pytest.approx(4 / 6) and values["first_jaccard"] == pytest.approx(2 / 4)
    # a line of 4 against one of 2: all are surface, the fourth pixel is 2 from the other; in mm it is 1 away
    assert values["first_nsd"] == pytest.approx(5 / 6)
    assert values["first_hd95"] == pytest.approx(0.5 * np.percentile([0, 0, 1, 2], 95))
    assert values["first_nsd_program"] == pytest.approx((3 / 4 + 1) / 2)
    each = (4 / 6, 1.0, 8 / 9)
    assert [values[f"dice with a{i}"] for i in (1, 2, 3)] == pytest.approx(each) and "dice with a0" not in values
    assert values["annotator_dice"] == pytest.approx(sum(each) / 3) and values["least_annotator_dice"] == each[0]
    assert values["consensus_dice"] == 1.0
    assert values["annotators_dice"] == pytest.approx((4 / 6 + 4 / 7 + 8 / 9) / 3)
    # D^2 of X_S, a line of 4, from lines of 2, 4 and 5: 2 (1/2 + 0 + 1/5) / 3 less (2 (1/2 + 3/5 + 1/5)) / 9
    assert values["energy_distance"] == pytest.approx(2 * 0.7 / 3 - 2.6 / 9)
    # lines of 4, 4, 6 and 2 from the same: across the mean of 12, within that of 16
    across = (2 * (1 / 2 + 0 + 1 / 5) + (2 / 3 + 1 / 3 + 1 / 6) + (0 + 1 / 2 + 3 / 5)) / 12
    within = 2 * (0 + 2 * (1 / 3 + 1 / 2) + 2 / 3) / 16
    assert values["set_energy_distance"] == pytest.approx(2 * across - within - 2.6 / 9) and values["readings"] == 4
    plain = PAPER.measure(replace(case, segmenter=Said({"main": line(4)})))  # the same X_S
    assert plain["energy_distance"] == values["energy_distance"] and "set_energy_distance" not in plain
    assert values["union_dice"] == pytest.approx(10 / 11) and values["intersection_dice"] == 1.0
    # HC is 0, 1 for both; LC is 2, 3, 4 and predicted 2, 3, 4, 5
    assert (values["hc_shift"], values["hc_real"]) == (0.0, -950.0)
    assert (values["lc_real"], values["lc_predicted"]) == (-700.0, -650.0)
    assert values["lc_shift"] == pytest.approx(50)
    assert PAPER.measure_lists is not None
    lists = PAPER.measure_lists(case)
    assert isinstance(case.segmenter, Said) and case.segmenter.reads == 1
    # MCM: (0.8 + 0.9) / 2 twice, 0.4 four times, 0 twice; shares 1, 1, 2/3, 2/3, 1/3, 0, 0, 0
    assert lists["mcm_count"] == (2, 0, 0, 0, 4, 0, 0, 0, 2, 0)
    assert lists["mcm_share"] == pytest.approx((0, 0, 0, 0, 5 / 3, 0, 0, 0, 2, 0))
    assert lists["main_count"] == (4, *[0] * 8, 4)
    assert lists["lc_real_values"] == (-800, -700, -600) and lists["lc_real_pixels"] == (3,)
    assert lists["lc_predicted_values"] == (-800, -700, -600, -500) and lists["hc_predicted_values"] == (-1000, -900)
    measured = CaseMeasures(case="c", group="c", has_foreground=True, values={}, lists=lists)
    doubled = replace(measured, case="d", lists=lists | {"lc_real_pixels": (6.0,)})
    result = RowResult(row="r", parameters=1, steps=1, seconds=1.0, epochs=(), cases=(measured, doubled))
    pooled = ugsnet_measures.pooled_intensities(result, "lc", predicted=False)
    assert [part.tolist() for part in pooled] == [[-800, -700, -600] * 2, [1, 1, 1, 2, 2, 2]]


def test_one_annotation_is_enough_only_where_no_case_has_two(tmp_path: Path) -> None:
    plain = {"main": line(2)}
    assert PAPER.measure(case_of(tmp_path / "a", LINES[:2], plain)) == {}
    alone = PAPER.measure(case_of(tmp_path / "b", LINES[1:2], plain))
    assert (alone["first_dice"], alone["annotators_dice"], alone["energy_distance"]) == (1.0, None, 0.0)
    assert "lc_shift" not in alone
    assert PAPER.measure(case_of(tmp_path / "c", LINES[:1], plain)) == {}


# ---------------------------------------------------------------- tables and figures


class Opened(Findings):
    """Findings whose networks are untrained, made to say foreground somewhere."""

    def opened(self, name: str, case_id: str) -> TestCase:
        ((config, _),) = self.networks[name]
        torch.manual_seed(0)
        segmenter = build_segmenter(config).eval()
        for module in segmenter.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.out_channels == 1:
                assert module.bias is not None
                module.weight.data.mul_(20)
                module.bias.data.zero_()
        return TestCase(name, segmenter, config, self.prepared, case_id, self.protocol, "cpu")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("ugsnet")
    data = write_phantom(folder / "data", PhantomSettings(cases=10, size=32, annotators=3, classes=2, seed=3))
    prepared = prepare_dataset(data, PrepareSettings(max_side=16, folds=2, merge_labels=True), folder / "cache")
    protocol = replace(PAPER.protocols["small"], max_side=16, width=1 / 16, steps=1)
    rows = [PAPER.row(name) for name in CORE]
    networks = {row.name: ((row_config(row, protocol, prepared, 0), Path()),) for row in rows}
    empty = Opened(PAPER, "small", protocol, prepared, networks=networks)
    results = {}
    for row in rows:
        cases = []
        for number, record in enumerate(prepared.cases[:4]):
            case = empty.opened(row.name, record.id)
            values = {"dice": 0.5} | PAPER.measure(case)
            assert PAPER.measure_lists is not None
            lists = PAPER.measure_lists(case)
            cases.append(
                CaseMeasures(
                    case=record.id,
                    group=record.id,
                    has_foreground=True,
                    values=values,
                    lists=lists,
                    fold=number % 2,
                )
            )
        results[row.name] = RowResult(row=row.name, parameters=1, steps=1, seconds=1.0, epochs=(), cases=tuple(cases))
    return Opened(PAPER, "small", protocol, prepared, results=results, networks=networks)


def test_all_tables_have_the_trained_rows(findings: Findings) -> None:
    grids = {grid.title.split(":")[0]: grid for grid in PAPER.exhibits(findings)}
    assert list(grids) == [
        "Annotations that mark anything",
        "Table I",
        "Table I by fold",
        "Table II",
        "Paired differences, points (95 % interval by group)",
        "Table III",
        "All annotators (mean ± sd over cases)",
        "Dice with each annotator (mean ± sd over cases)",
        "Calibration",
        "Calibration of the MCM of UGS-Net",
        "Figure 8 in figures",
    ]
    assert grids["Annotations that mark anything"].rows == (("3", "10", "0", "yes"),)
    first = {row[0]: row for row in grids["Table I"].rows}
    assert first["FCN32s"][1] == "not trained here" and first["FCN32s"][-3:] == (
        "84.87±0.64",
        "74.77±0.78",
        "94.02±0.82",
    )
    assert "(2 folds, n=4)" in first["UGS-Net"][1]
    assert "NSD by the paper's program, single images" in grids["Table I"].columns  # its batches are not known
    assert [row[0] for row in grids["Table I by fold"].rows] == CORE
    assert {row[0]: row[1] for row in grids["Table II"].rows}["UGS-Phi_a+Phi_b"] == "V1, a, b"
    assert len(grids["Paired differences, points (95 % interval by group)"].rows) == 5
    groups = grids["Table III"].rows
    assert len(groups) == 12
    bad = findings.results["Attention U-Net"].values("first_dice")
    assert [row[:3] for row in groups[::4]] == [
        (f"<= {limit}", "Attention U-Net", str(sum(value <= limit for value in bad))) for limit in (0.6, 0.7, 0.8)
    ]
    assert int(groups[-1][2]) > 0, "untrained networks should segment some case badly"
    for row in groups:  # at most 4 cases: no interval
        assert row[5] == "–" if row[1] == "Attention U-Net" or row[2] == "0" else row[5].endswith(f" (n={row[2]})")  # noqa: RUF001
    energies = {row[0]: row[6:8] for row in grids["All annotators (mean ± sd over cases)"].rows}
    assert energies["UGS-Net"][0].endswith("(1 reading, n=4)") and energies["UGS-Net"][1].endswith("(4 readings, n=4)")
    assert energies["Attention U-Net"][0].endswith("(1 reading, n=4)") and energies["Attention U-Net"][1] == "–"  # noqa: RUF001
    assert {row[:2] for row in grids["Calibration"].rows} >= {("UGS-Net", "MCM"), ("Attention U-Net", "X_S")}
    assert ("Attention U-Net", "MCM") not in {row[:2] for row in grids["Calibration"].rows}


@pytest.mark.parametrize(("ct", "unit"), [(False, "grey values of the files"), (True, "HU")])
def test_intensities_are_in_hu_only_of_ct(findings: Findings, ct: bool, unit: str) -> None:
    preprocessing = replace(findings.prepared.preprocessing, ct=(ct,))
    said = replace(findings, prepared=replace(findings.prepared, preprocessing=preprocessing))
    assert ugsnet_tables.table_regions(said).title.endswith(f"HC and LC, {unit}")


def test_densities_are_drawn_from_what_was_measured(findings: Findings, tmp_path: Path) -> None:
    closed = replace(findings, networks=dict.fromkeys(CORE, ()))  # no network can be opened
    path = ugsnet_figures.draw_densities(closed, tmp_path)
    assert path is not None and path.stat().st_size > 1000


def test_masks_of_annotators_and_network_stand_side_by_side(findings: Findings) -> None:
    result = findings.results["UGS-Net"]
    rows = ugsnet_figures.mask_panels(findings, result)
    assert [row[0].title for row in rows] == ugsnet_figures.chosen_cases(result)
    for row in rows:
        drawn = ugsnet_measures.drawn_annotations(findings.prepared, row[0].title)[1].astype(float)
        said = ugsnet_measures.Opinions.of(findings.opened("UGS-Net", row[0].title)).branches
        union, intersection = said["union"], said["intersection"]
        sure, possible = intersection > 0.5, union > 0.5
        wanted = {
            "3 annotators": (drawn.max(0) + drawn.min(0)) / 2,  # 1 where all marked, 1/2 where only some did
            "share of annotators": drawn.mean(0),
            "MCM": (union + intersection) / 2,
            "MCM, hard": np.where(sure, 1.0, np.where(possible, 0.5, 0.0)),
        }
        assert [panel.title for panel in row[1:]] == list(wanted)
        for panel in row[1:]:
            assert panel.heat is not None and np.array_equal(panel.image, row[0].image)
            np.testing.assert_allclose(panel.heat, wanted[panel.title], atol=1e-6)


def test_only_bins_with_pixels_are_drawn(findings: Findings) -> None:
    lists = {"mcm_count": (4, 0, 2), "mcm_confidence": (1.0, 0.0, 1.9), "mcm_share": (2.0, 0.0, 2.0)}
    cases = tuple(CaseMeasures(case=c, group=c, has_foreground=True, values={}, lists=lists) for c in "ab")
    row = RowResult(row="UGS-Net", parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)
    series = ugsnet_figures.calibration_series(replace(findings, results={"UGS-Net": row}))
    assert series["main"] == {}
    assert [value for point in series["mcm"]["UGS-Net"] for value in point] == pytest.approx([0.25, 0.5, 0.95, 1.0])


def test_all_figures_are_drawn(findings: Findings, tmp_path: Path) -> None:
    paths = PAPER.pictures(findings, tmp_path)
    assert [path.name for path in paths] == [
        "fig01-07-multi-confidence.png",
        "fig08-densities.png",
        "fig09-grad-cam.png",
        "calibration.png",
    ]
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("name", ugsnet_tables.MASKED)
def test_any_row_with_a_confidence_mask_alone_is_shown(findings: Findings, name: str) -> None:
    plain = findings.results["Attention U-Net"]
    one = {name: replace(findings.results["UGS-Net"], row=name)}
    alone = replace(findings, results=one | {plain.row: plain}, networks={name: findings.networks["UGS-Net"]})
    shown = ugsnet_figures.shown_row(alone)
    assert shown is not None and shown.row == name
    bins = ugsnet_tables.table_bins(alone)
    assert bins.title == f"Calibration of the MCM of {name}" and len(bins.rows) == 10
    assert {row[1] for row in ugsnet_tables.table_complex(alone).rows} == {plain.row, name}


def test_imported_masks_are_no_baseline_as_they_have_no_figures_against_the_first(findings: Findings) -> None:
    cases = tuple(replace(case, values={"dice": 0.9}) for case in findings.results["Attention U-Net"].cases)
    imported = RowResult(row="U-Net", parameters=0, steps=0, seconds=0.0, epochs=(), cases=cases)
    mixed = replace(findings, results=findings.results | {"U-Net": imported})
    assert {row[1] for row in ugsnet_tables.table_complex(mixed).rows} == set(CORE)
    alone = ugsnet_tables.table_complex(replace(findings, results={"U-Net": imported}))
    assert alone.rows == () and "not read against Label_1" in alone.title


def test_nothing_trained_gives_tables_without_figures(findings: Findings, tmp_path: Path) -> None:
    nothing = replace(findings, results={}, networks={})
    assert len(PAPER.exhibits(nothing)) == 11
    assert PAPER.pictures(nothing, tmp_path) == ()


def test_fold_means_and_complex_groups_by_hand() -> None:
    def row(name: str, *dice: float | None) -> RowResult:
        cases = tuple(
            CaseMeasures(
                case=str(i), group=str(i), has_foreground=True, values={"first_dice": d, "first_jaccard": d}, fold=i % 2
            )
            for i, d in enumerate(dice)
        )
        return RowResult(row=name, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)

    baseline, better = row("U-Net", 0.5, 0.9, 0.6, 0.7, None), row("UGS-Net", 0.7, 0.9, 0.6, 0.8, None)
    assert ugsnet_tables.folds_and_cases(baseline, "first_dice") == "67.50±12.50 (2 folds, n=4)"  # 0.55 and 0.8
    assert ugsnet_tables.folds_and_cases(baseline, "none") == "–"  # noqa: RUF001
    grid = ugsnet_tables.table_complex(
        Findings(PAPER, "small", PAPER.protocols["small"], None, results={"U-Net": baseline, "UGS-Net": better})  # type: ignore[arg-type]
    )
    rows = {row[:2]: row[2:] for row in grid.rows}
    assert rows["<= 0.6", "UGS-Net"][:4] == (
        "2",
        "65.00±0.00 (1 folds, n=2)",
        "65.00±0.00 (1 folds, n=2)",
        "+10.00 (n=2)",
    )
    assert rows["<= 0.6", "UGS-Net"][4:] == ("59.55", "44.44")
    assert rows["<= 0.7", "U-Net"][0] == "3" and rows["<= 0.8", "U-Net"][3] == "–"  # noqa: RUF001
    assert rows["<= 0.6", "U-Net"][4:] == ("48.53", "32.36")
    # another baseline has none of the printed figures: they are U-Net's
    results = {"Attention U-Net": replace(baseline, row="Attention U-Net"), "UGS-Net": better}
    other = ugsnet_tables.table_complex(Findings(PAPER, "small", PAPER.protocols["small"], None, results=results))  # type: ignore[arg-type]
    prints = {row[:2]: row[-2:] for row in other.rows}
    assert prints["<= 0.6", "Attention U-Net"] == ("–", "–")  # noqa: RUF001
    assert prints["<= 0.6", "UGS-Net"] == ("59.55", "44.44")
    # a named baseline takes the place of U-Net, which is trained too; one that is not trained has no table
    results = {"U-Net": better, "Attention U-Net": replace(baseline, row="Attention U-Net"), "UGS-Net": better}
    findings = Findings(PAPER, "small", PAPER.protocols["small"], None, results=results, baseline="Attention U-Net")  # type: ignore[arg-type]
    named = {row[:2]: row[2] for row in ugsnet_tables.table_complex(findings).rows}
    assert named["<= 0.6", "Attention U-Net"] == named["<= 0.6", "UGS-Net"] == "2"
    assert not ugsnet_tables.table_complex(replace(findings, baseline="Nested U-Net")).rows


def test_only_a_row_of_a_paper_with_such_a_table_is_a_baseline() -> None:
    check_baseline(PAPER, None)
    check_baseline(PAPER, "U-Net")
    with pytest.raises(UserError, match="unknown row 'W-Net'"):
        check_baseline(PAPER, "W-Net")
    with pytest.raises(UserError, match=r"--baseline must be for a paper .* \(ugsnet\), but got unetmer"):
        check_baseline(PAPERS["unetmer"], "U-Net")


@pytest.mark.parametrize(("number", "gain"), [(9, "+10.00 (n=9)"), (10, "+10.00 (+10.00 to +10.00, n=10)")])
def test_a_complex_group_has_an_interval_from_ten_cases_on(number: int, gain: str) -> None:
    def row(name: str, dice: float) -> RowResult:
        cases = tuple(
            CaseMeasures(
                case=str(i), group=str(i), has_foreground=True, values={"first_dice": dice, "first_jaccard": dice}
            )
            for i in range(number)
        )
        return RowResult(row=name, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)

    results = {"U-Net": row("U-Net", 0.5), "UGS-Net": row("UGS-Net", 0.6)}
    grid = ugsnet_tables.table_complex(Findings(PAPER, "small", PAPER.protocols["small"], None, results=results))  # type: ignore[arg-type]
    assert {row[5] for row in grid.rows if row[1] == "UGS-Net"} == {gain}


def test_chosen_cases_span_the_agreement() -> None:
    cases = tuple(
        CaseMeasures(case=f"c{i}", group="g", has_foreground=True, values={"annotator_dice": v})
        for i, v in enumerate((0.9, 0.1, None, 0.5))
    )
    result = RowResult(row="r", parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)
    assert ugsnet_figures.chosen_cases(result) == ["c1", "c3", "c0"]
    assert ugsnet_measures.pooled_bins(result, "mcm") is None


# ---------------------------------------------------------------- the whole program

ROWS = ("Attention U-Net", "UGS-Net")


@pytest.fixture
def tiny_paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    """Shrink the experiment: two rows, four steps of 16 pixels, two folds."""
    small = replace(PAPER.protocols["small"], max_side=16, width=1 / 16, steps=4, batch_size=2, validations=1, folds=2)
    paper = replace(PAPER, rows=tuple(PAPER.row(name) for name in ROWS), protocols={"small": small})
    monkeypatch.setitem(PAPERS._entries, "ugsnet", paper)
    return paper


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write eight cases of three annotators: of the first case only one drew, of the second none."""
    root = write_phantom(tmp_path / "drawn", PhantomSettings(cases=8, size=32, annotators=3, classes=2, seed=3))
    first, second = sorted(path.name for path in (root / "masks" / "annotator1").iterdir())[:2]
    for annotator, name in ((2, first), (3, first), (1, second), (2, second), (3, second)):
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / "masks" / f"annotator{annotator}" / name)
    return root


@pytest.mark.ray
def test_rows_train_are_kept_and_are_tested_anew_only_if_they_would_be_read_otherwise(
    tmp_path: Path, data: Path, tiny_paper: Paper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    settings = ReproductionSettings(paper="ugsnet", data=data, out=out, cache=tmp_path / "cache")

    def written(name: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob(f"rows/*/{name}")}

    with session(num_cpus=2), caplog.at_level("INFO", logger="overread"):
        found = reproduce(settings, ray_map)
        weights, tests = written("weights.safetensors"), written("result.json")
        again = reproduce(settings, ray_map)
        assert (written("weights.safetensors"), written("result.json")) == (weights, tests)
        other = replace(tiny_paper, measures=tiny_paper.measures + 1, pictures=lambda *_: ())
        monkeypatch.setitem(PAPERS._entries, "ugsnet", other)
        anew = reproduce(settings, ray_map)
    assert written("weights.safetensors") == weights and len(weights) == 4  # two rows of two folds
    assert all(time > tests[path] for path, time in written("result.json").items())
    for name in ROWS:
        assert again.results[name] == found.results[name]
        assert anew.results[name].cases == found.results[name].cases
        by_case = {case.case: case.values for case in found.results[name].cases}
        without = [case for case, values in by_case.items() if "first_dice" not in values]
        assert len(by_case) == 8 and without == sorted(by_case)[:2]  # fewer than two drew them
        assert all(values["dice"] is not None for values in by_case.values())
    told = "2 of 8 cases of 'drawn' have fewer than two annotations that mark anything"
    assert sum(told in message for message in caplog.messages) == 1  # by the driver, before it trains
    report = (out / "report.md").read_text()
    assert told in report and "attention_pool 2" in report and "50 x 50 pixels around a nodule" in report
    tables = {path.stem[3:]: list(csv.reader(path.open())) for path in (out / "tables").glob("*.csv")}
    assert tables["annotations-that-mark-anything"][1:] == [
        ["0", "1", "1", "no"],
        ["1", "1", "1", "no"],  # the majority of three says nothing
        ["3", "6", "0", "yes"],
    ]
    models = {row[0]: row for row in tables["table-i-against-label-1-mean-deviation-of-the-folds"]}
    assert all("(2 folds, n=6)" in models[name][1] for name in ROWS)
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"fig01-07-multi-confidence.png", "fig09-grad-cam.png", "calibration.png"} <= figures
