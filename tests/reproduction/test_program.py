"""One program, run as a user would: rows train within a budget, are kept, and stand beside print in tables."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data.locked_uses import locked_uses
from overread.data.phantom import PhantomSettings, write_phantom
from overread.reproduction import PAPERS, unetmer
from overread.reproduction.program import ReproductionSettings, reproduce

pytestmark = pytest.mark.ray
ROWS = ("U-Net", "U-Netmer <1>", "U-Netmer <2>", "U-Netmer <1|2|4>")


@pytest.fixture
def tiny_paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shrink the experiment: four models, eight steps of 32 pixels."""
    small = replace(unetmer.PROTOCOLS["small"], max_side=32, width=1 / 16, steps=8, validations=2, folds=2)
    rows = tuple(replace(row, options=dict(row.options) | tiny(row.architecture)) for row in PAPERS["unetmer"].rows)
    chosen = tuple(row for row in rows if row.name in (*ROWS, "BiOnet"))
    paper = replace(PAPERS["unetmer"], rows=chosen, protocols={"small": small})
    monkeypatch.setitem(PAPERS._entries, "unetmer", paper)
    yield


def tiny(architecture: str) -> dict[str, object]:
    return {"pools": 2, "transformer_depth": 1, "heads": 2, "position_grid": 4} if architecture == "unetmer" else {}


def test_a_table_grows_over_calls(tmp_path: Path, tiny_paper: None) -> None:
    data = write_phantom(tmp_path / "BUSI-phantom", PhantomSettings(cases=16, size=32, seed=1))
    settings = ReproductionSettings(
        paper="unetmer", data=data, out=tmp_path / "out", rows=("U-Net",), cache=tmp_path / "cache"
    )
    with session(num_cpus=2):
        waiting = reproduce(replace(settings, rows=ROWS, budget_s=0.0), ray_map)
        assert waiting.results == {} and locked_uses(tmp_path / "cache", waiting.prepared) == []
        assert sorted(waiting.costs) == sorted((*ROWS, "BiOnet"))
        first = reproduce(settings, ray_map)
        assert list(first.results) == ["U-Net"]
        (weights,) = (tmp_path / "out").glob("rows/u-net-*/weights.safetensors")
        written = weights.stat().st_mtime_ns
        full = reproduce(replace(settings, rows=ROWS), ray_map)
    assert set(full.results) == set(ROWS)
    (use,) = locked_uses(tmp_path / "cache", full.prepared)  # one experiment, however often it is resumed
    assert use["winners"].startswith("reproduce unetmer small ")
    assert weights.stat().st_mtime_ns == written
    joint = full.results["U-Netmer <1|2|4>"]
    assert full.results["U-Net"].threads > joint.threads == 1  # a row alone has all cores
    assert joint.steps == 8 and len(joint.cases) == 3  # a fifth of 16 cases
    values = joint.cases[0].values
    assert {"c_12", "c_14", "c_24", "dice_scale_2", "dice_scale_4", "sa_mean", "jaccard"} <= set(values)
    tables = sorted((tmp_path / "out" / "tables").glob("*.csv"))
    rows = {row[0]: row for row in csv.reader(tables[0].open())}
    assert rows["U-Netmer <1|2|4>"][-1] == "73.27±28.61"  # print: the name says BUSI
    assert rows["U-Netmer <8>"][1] == "not trained here"
    report = (tmp_path / "out" / "report.md").read_text()
    for figure in ("fig01d", "fig05", "fig06-07", "fig08", "fig10", "fig11", "training-curves"):
        assert list((tmp_path / "out" / "figures").glob(f"{figure}*.png")), figure
        assert figure in report
    assert "8 steps in" in report
