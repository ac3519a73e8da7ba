"""The failure benchmark on a phantom: members are read once, clean and corrupted, and judged together."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from overread.cluster.job import TrialJob
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data.corruptions import conditions
from overread.data.locked_uses import locked_uses
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import MapCases
from overread.jsonio import fingerprint, read_json
from overread.reproduction import PAPERS, failure, failure_memory, program
from overread.reproduction.configs import measuring_key
from overread.reproduction.failure_methods import ENSEMBLES, FIVE_ARCHITECTURES, FIVE_SEEDS, SEEDS, SINGLE, U_NETMER
from overread.reproduction.failure_readings import READINGS, EnsembleItem
from overread.reproduction.failure_selection import chosen_rows
from overread.reproduction.program import ReproductionSettings, RowTraining, reproduce
from overread.reproduction.results import CaseMeasures, Cost, Findings, RowResult

MEMBERS = tuple(dict.fromkeys(name for members in ENSEMBLES.values() for name in members))


def test_ensembles_have_equal_size_and_share_one_network() -> None:
    assert {len(members) for members in ENSEMBLES.values()} == {5}
    assert len(MEMBERS) == 9
    rows = [PAPERS["failure"].row(name) for name in ENSEMBLES[FIVE_SEEDS]]
    assert [row.seed for row in rows] == [0, 1, 2, 3, 4] and {row.architecture for row in rows} == {"unet"}
    others = [PAPERS["failure"].row(name).architecture for name in ENSEMBLES[FIVE_ARCHITECTURES]]
    assert len(set(others)) == 5
    assert PAPERS["failure"].row(failure.DROPOUT).options["passes"] == 5


SMALL = {FIVE_ARCHITECTURES: (SINGLE, U_NETMER), FIVE_SEEDS: SEEDS[:2]}
TRAINED = (*SEEDS[:2], U_NETMER)


@pytest.fixture
def tiny_paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shrink the experiment: ensembles of two, two steps of 32 pixels, no timing of their steps."""
    small = replace(
        failure.PROTOCOLS["small"], max_side=32, width=1 / 16, steps=2, batch_size=4, validations=1, folds=2
    )
    rows = tuple(PAPERS["failure"].row(name) for name in TRAINED)
    monkeypatch.setitem(PAPERS._entries, "failure", replace(PAPERS["failure"], rows=rows, protocols={"small": small}))
    for name, members in SMALL.items():
        monkeypatch.setitem(ENSEMBLES, name, members)
    monkeypatch.setattr(failure, "SEEDS", SEEDS[:2])
    monkeypatch.setattr(failure_memory, "MEMBERS", (2,))
    untimed = Cost(
        row="", parameters=0, published=0, seconds_per_step=0.0, peak_bytes=0, device="cpu", failure="not timed"
    )
    monkeypatch.setattr(program, "_cost", lambda *told: untimed)
    yield


def test_ensembles_stored_with_other_figures_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members, folders, read = SEEDS[:2], ["seed-1", "seed-2"], list[str]()
    networks = {m: [("config", tmp_path / own / "weights")] for m, own in zip(members, folders, strict=True)}
    case = CaseMeasures(case="a", group="a", has_foreground=True, values={"class_dice": 0.5})
    tested = SimpleNamespace(cases=(case,))
    findings = SimpleNamespace(
        networks=networks,
        combined=tmp_path,
        prepared=SimpleNamespace(content="content", root="prepared"),
        results=dict.fromkeys(members, tested),
        trained=lambda _: [],
    )

    def ensemble() -> RowResult:
        def read_anew(function: object, items: Sequence[EnsembleItem], title: str) -> list[CaseMeasures]:
            read.extend(item.case for item in items)
            return [replace(case, values=case.values | {"volume_ml": 1.0})]

        return failure._ensemble(cast(Findings, findings), FIVE_SEEDS, members, cast(MapCases, read_anew))

    stale = RowResult(row=FIVE_SEEDS, parameters=0, steps=0, seconds=0.0, epochs=(), cases=(case,))
    earlier = fingerprint({"members": folders, "data": "content"})  # without a version of the figures
    stale.save(tmp_path / f"5-seeds-{earlier[:12]}.json")
    assert ensemble().cases[0].values["volume_ml"] == 1.0
    assert (ensemble(), read) == (ensemble(), ["a"])  # stored
    monkeypatch.setattr(failure, "FIGURES_VERSION", failure.FIGURES_VERSION + 1)
    ensemble()
    assert read == ["a", "a"]


def test_results_of_another_version_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper, job = PAPERS["failure"], cast(TrialJob, SimpleNamespace(path=tmp_path))
    row, protocol = paper.row(SINGLE), paper.protocols["small"]
    now = measuring_key(row, paper, protocol)
    RowResult(row=SINGLE, parameters=0, steps=0, seconds=0.0, epochs=(), cases=(), measured=now).save(
        tmp_path / "result.json"
    )
    assert RowTraining(row, job, now).result is not None
    later = replace(paper, measures=paper.measures + 1)
    assert RowTraining(row, job, measuring_key(row, later, protocol)).result is None
    assert f"readings-{paper.measures}" == READINGS  # readings and figures change together


@pytest.mark.ray
def test_every_case_is_read_once_and_together(tmp_path: Path, tiny_paper: None) -> None:
    data = write_phantom(tmp_path / "phantom", PhantomSettings(cases=12, size=32, seed=1))
    out = tmp_path / "out"
    settings = ReproductionSettings(paper="failure", data=data, out=out, cache=tmp_path / "cache")
    with session(num_cpus=2):
        found = reproduce(settings, ray_map)
        (first,) = out.glob("rows/u-net-seed-1-*")
        written = {path: path.stat().st_mtime_ns for path in out.rglob(f"{READINGS}/*.npz")}
        again = reproduce(settings, ray_map)
    assert set(found.results) == {*TRAINED, *ENSEMBLES}
    (use,) = locked_uses(tmp_path / "cache", found.prepared)  # the second call read nothing new
    assert use["winners"].startswith("bench failure small ") and use["run"] == str(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob(f"{READINGS}/*.npz")} == written
    assert again.results == found.results
    splits = found.prepared.splits
    held_out = {*splits.locked, *splits.calibration, *splits.folds[0]}
    assert {path.stem for path in (first / READINGS).glob("*.npz")} == held_out and splits.calibration
    for case in found.results[FIVE_ARCHITECTURES].cases:
        corrupted = "pairwise_dice@blur-3" in case.values
        assert corrupted == (case.case in splits.locked)  # what is fitted, is fitted on clean cases
        assert {"class_dice", "pairwise_dice", "c_12", "c_24"} <= set(case.values)
    with np.load(first / READINGS / f"{splits.locked[0]}.npz") as archive:
        assert set(archive) == set(conditions())
        assert archive["blur-1"].dtype == np.uint8 and archive["blur-1"].shape == (2, 1, 32, 32)
    assert read_json(out / "combined" / "memory.json")["bytes"].keys() == {"2"}
    tables = sorted((out / "tables").glob("*.csv"))
    rows = {row[0]: row for row in csv.reader(tables[0].open())}
    assert rows["Relation U-Net: relations, C"][1] == "not trained here"
    assert rows[f"{U_NETMER}: scales, C_12"][1].endswith(f"(n={len(splits.locked)})")
    report = (out / "report.md").read_text()
    for figure in ("risk-coverage", "corruptions", "corrupted-examples"):
        assert (out / "figures" / f"{figure}.png").is_file() and figure in report
    chosen = chosen_rows(found)
    assert chosen is not None and set(chosen.votes) == {"greedy", "top 5", "best single", "all"}
    assert [case.case for case in chosen.cases] == list(splits.locked)
    (single,) = chosen.votes["best single"]
    own = {
        case.case: case.values["class_dice@blur-3"]
        for case in found.results[single].cases
        if case.case in splits.locked
    }
    read = {case.case: case.values["best single@blur-3"] for case in chosen.cases}
    assert read == pytest.approx(own, abs=0.02)  # up to the rounding of stored readings
    assert "Selection of members" in report and not any(path.is_dir() for path in (out / "combined").iterdir())
    assert "too few for a bound" in report and "Nothing is printed of them" in report
