"""What a reproduction leaves on disk and says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from overread.records import AugmentConfig
from overread.reproduction import PAPERS
from overread.reproduction.paper import NO_AUGMENTATION, Protocol
from overread.reproduction.results import Cost, Findings
from overread.reproduction.writing import augment_text, cost_table, protocol_text, write_findings
from overread.review.tables import Grid

PAPER = PAPERS["ugsnet"]


def findings_of(*titles: str, protocol: Protocol = PAPER.protocols["small"], **changes: Any) -> Findings:
    """Return findings of nothing trained, with empty tables of these titles."""
    paper = replace(
        PAPER,
        exhibits=lambda _: tuple(Grid(title, ("a", "b"), (("1", "2"),)) for title in titles),
        pictures=lambda *_: (),
        **changes,
    )
    prepared: Any = SimpleNamespace(
        dataset="drawn",
        splits=SimpleNamespace(save=lambda _: None, folds=(("a", "b"), ("c",)), locked=("a", "b")),
        case=lambda name: SimpleNamespace(group="first" if name in "ab" else "second"),
    )
    return Findings(paper, "small", protocol, prepared)


def test_tables_of_an_earlier_call_go_and_other_files_stay(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    write_findings(findings_of("Table I: none trained", "Two", "Three"), tmp_path)
    (tables / "notes.md").write_text("mine")
    write_findings(findings_of("Table I: by U-Net", "Two"), tmp_path)
    stems = ["01-table-i-by-u-net", "02-two", "03-training-curves", "04-speed-and-memory"]
    assert sorted(path.name for path in tables.iterdir()) == sorted(
        [f"{stem}.{kind}" for stem in stems for kind in ("csv", "md")] + ["notes.md"]
    )
    assert (tables / "02-two.csv").read_text().split() == ["a,b", "1,2"]


def test_the_protocol_tells_what_makes_the_experiment_smaller() -> None:
    small = protocol_text(findings_of())
    assert "0.25 of the published width, attention_pool 2 where a network has it, 1,200 steps of 4 slices" in small
    assert "augmented by flips, rotation up to 15 degrees, scale within 10%, intensity within 10%; last" in small
    assert "Tested: 3 cases of 2 groups (patients)." in small
    paper = protocol_text(findings_of(protocol=PAPER.protocols["paper"]))
    assert "1 of the published width, 200 passes" in paper and "no augmentation" in paper


def test_augmentation_in_words() -> None:
    assert augment_text(NO_AUGMENTATION) == "no augmentation"
    assert augment_text(replace(NO_AUGMENTATION, scale=0.2)) == "augmented by scale within 20%"
    turned = replace(NO_AUGMENTATION, turn_and_flip=True, rotate_degrees=20)
    assert augment_text(turned) == (
        "augmented by quarter turns with a flip (or else what follows), rotation up to 20 degrees"
    )
    assert augment_text(AugmentConfig(flip=True, rotate_degrees=0, scale=0, intensity=0)) == "augmented by flips"


def test_parameters_stand_beside_the_images_they_are_for() -> None:
    cost = Cost(row="", parameters=7, published=35_069_675, seconds_per_step=0.5, peak_bytes=2**20, device="CPU")
    names = ("U-Net", "UGS-Net-V1")
    grid = cost_table(replace(findings_of(), costs=dict.fromkeys(names, cost)))
    found = {row[0]: row[1:4] for row in grid.rows if row[0] in names}
    assert found["UGS-Net-V1"] == ("35,069,675", "3 channels, 2 classes, 2-D", "7")
    assert found["U-Net"][1] == "1 channel, 2 classes, 2-D"
