"""A process keeps a package between cases, and not beyond its manifest; what a case is measured by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.architectures.ugs_net import DISAGREEMENT
from overread.cli._tables import summary_grids
from overread.data.images import NativeImage
from overread.data.prepare import prepare_dataset, serial_map
from overread.ensemble import package as packages
from overread.ensemble.evaluate import Measures
from overread.ensemble.fusion import Probabilities
from overread.ensemble.reader import MemberReader
from overread.errors import UserError
from overread.metrics.overlap import dice
from overread.metrics.surface import hausdorff_95
from overread.pipeline.reading import _package
from overread.pipeline.stages import Run, assemble, conclude, load_results, read_locked
from overread.records import Member, TrialOutcome


def test_a_package_written_anew_in_its_place_is_read_anew(two_networks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []
    load = packages.load_package
    monkeypatch.setattr(packages, "load_package", lambda folder: (loads.append(folder), load(folder))[1])
    assemble(two_networks, top=2)
    path = str(two_networks.folder.ensemble)
    first = _package(path)
    assert _package(path) is first
    assert len(loads) == 1
    # the same members with other votes: the same files of weights, another manifest
    assemble(two_networks, top=2, votes={("t0", "main"): 1.0, ("t1", "main"): 4.0})
    again = _package(path)
    assert [member.weight for member in again.manifest.members] == [0.25, 1.0]
    assert [member.weight for member in first.manifest.members] == [1.0, 1.0]
    assert len(loads) == 2
    guests = _package(path, ("person",))
    assert [member.name for member in guests.manifest.imported] == ["person"]
    assert _package(path) is again


def test_a_folder_without_a_package_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json must exist"):
        _package(str(tmp_path))


def test_a_locked_case_is_held_against_all_its_annotators(
    tmp_path: Path, two_networks: Run, make_run: Callable[..., Run]
) -> None:
    data = tmp_path / "set"
    rng = np.random.default_rng(0)
    for i in range(20):
        drawn = {"anna": slice(2, 6), "ben": slice(2, 5), "carl": slice(3, 6)}
        files = {"images": rng.integers(0, 255, (8, 8)).astype(np.uint8)}
        for name, rows in drawn.items():
            mask = np.zeros((8, 8), np.uint8)
            mask[rows, i % 4 : i % 4 + 4] = 255
            files[f"masks/{name}"] = mask
        if i % 2:
            del files["masks/carl"]  # did not annotate
        for folder, pixels in files.items():
            (data / folder).mkdir(exist_ok=True, parents=True)
            Image.fromarray(pixels).save(data / folder / f"n{i:02d}.png")
    prepared = prepare_dataset(data, two_networks.record.prepare, tmp_path / "cache", serial_map)
    options = {"width": 4, "backbone_options": {"depth": 2}}
    plain = TrialOutcome.load(two_networks.folder.search / "trials" / "t0" / "outcome.json").config
    ugs_net = replace(plain, architecture="ugs_net", options=options)
    run = make_run(tmp_path / "several", data, prepared, (plain, ugs_net))
    assemble(run, top=2)
    read_locked(run, serial_map, measures=Measures(metrics=("dice", "nsd", "hd95"), tolerance=2))
    results = load_results(run.folder.predictions)
    assert len(results) == 4
    for result in results:
        case = result.confidence.case
        mask = np.array(Image.open(run.folder.predictions / "masks" / f"{case}.png")) > 0
        truths = {path.parent.name: np.array(Image.open(path)) > 0 for path in (data / "masks").glob(f"*/{case}.png")}
        assert set(truths) == ({"anna", "ben"} if int(case[1:]) % 2 else {"anna", "ben", "carl"})
        (found,) = result.agreement.values()
        assert found.each == {name: dice(mask, truth) for name, truth in truths.items()}
        assert found.readings == 2
        majority = sum(truths.values(), start=np.zeros((8, 8), int)) > len(truths) / 2
        assert found.majority == dice(mask, majority)
        for name in ("ensemble", "mcm"):  # every pixel is in a bin, and marked by its share
            count, _, share = found.calibration[name]
            assert sum(count) == 64
            assert sum(share) == pytest.approx(sum(truth.mean() for truth in truths.values()) / len(truths) * 64)
        assert found.calibration["mcm"] != found.calibration["ensemble"]
        assert result.evaluation is not None
        assert result.evaluation.mean["dice"] == result.dice
        assert result.evaluation.mean["hd95"] == hausdorff_95(mask, majority)
    summary = conclude(run, results, {})
    (table,) = summary.annotators
    carl = sum("carl" in next(iter(result.agreement.values())).each for result in results)
    assert [table.figures[f"annotator:{name}"].n for name in ("anna", "ben")] == [4, 4]
    assert table.figures["annotator:carl"].n == carl
    assert summary.evaluation is not None
    assert (summary.evaluation.unit, summary.evaluation.tolerance, summary.evaluation.cases) == ("pixels", 2, ())
    titles = {grid.title: grid for grid in summary_grids(summary)}
    assert titles["Evaluation"].columns[:2] == ("class", "dice")
    assert len(titles["Against the annotators (low to high: 95 % interval)"].rows) == len(table.figures) + 4
    assert (run.folder.predictions / "annotators.csv").read_text().startswith("structure,figure,mean,sd,low,high,n\n")


def test_one_annotator_needs_no_table(two_networks: Run) -> None:
    assemble(two_networks, top=2)
    results = read_locked(two_networks, serial_map)
    assert all(not result.agreement for result in results)
    assert list(results[0].evaluation.mean) == ["dice", "jaccard", "sensitivity", "precision"]  # type: ignore[union-attr]


def test_a_broken_multi_confidence_mask_takes_no_case(
    two_networks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assemble(two_networks, top=2)
    package = packages.load_package(two_networks.folder.ensemble)
    native = NativeImage(np.zeros((1, 8, 8), np.float32), None, None, "uint8", ".png")
    reader = MemberReader(package, native, "cpu")
    assert reader.multi_confidence(()) is None  # no UGS-Net
    first, second = package.manifest.members
    monkeypatch.setattr(package, "relation_sets", lambda member: {DISAGREEMENT: ("union", "intersection")})
    maps = {"union": np.full((2, 8, 8), 0.5, np.float32), "intersection": np.zeros((2, 8, 8), np.float32)}

    def named(member: Member, names: tuple[str, ...]) -> Iterator[tuple[str, Probabilities]]:
        if member == first:
            raise ArithmeticError("its probabilities are not finite")
        return iter([(name, maps[name]) for name in names])

    monkeypatch.setattr(reader, "named", named)
    found = reader.multi_confidence(())
    assert found is not None
    assert np.array_equal(found, np.full((2, 8, 8), 0.25))
    assert f"the MCM of member {first.name} is left out" in caplog.text
    assert reader.multi_confidence([second.name]) is None
