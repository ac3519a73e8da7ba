"""The papers' tables of models: every row builds at both sizes, and the printed figures are those of print."""

import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.errors import UserError
from overread.reproduction import PAPERS
from overread.reproduction.configs import loss_terms, options_at
from overread.reproduction.cost import published_parameters
from overread.reproduction.printed import printed, printed_text
from overread.reproduction.program import choose_rows, slug

UNETMER = PAPERS["unetmer"]


def test_names_are_unique_also_as_files() -> None:
    for name in PAPERS:
        rows = [row.name for row in PAPERS[name].rows]
        assert len({slug(row) for row in rows}) == len(rows)


@pytest.mark.parametrize("paper", list(PAPERS))
def test_every_row_builds_at_every_size(paper: str) -> None:
    for row in (row for row in PAPERS[paper].rows if row.architecture is not None):
        architecture = ARCHITECTURES[row.architecture]
        for protocol in PAPERS[paper].protocols.values():
            with torch.device("meta"):
                losses = {name: weight for name, weight in protocol.losses.items() if name in loss_terms(row)}
                architecture.build(
                    options_at(row, protocol.width, protocol.options),
                    in_channels=1,
                    classes=2,
                    spatial_dims=protocol.spatial_dims,
                    losses=losses,
                )


def test_core_rows_of_unetmer_are_a_quarter_wide_and_as_published() -> None:
    core = [row.name for row in UNETMER.rows if row.core]
    assert core == [
        "U-Net", "U-Netmer <1>", "U-Netmer <2>", "U-Netmer <4>", "U-Netmer <1|2>", "U-Netmer <1|2|4>",
    ]  # fmt: skip
    joint = UNETMER.row("U-Netmer <1|2|4>")
    assert options_at(joint, 0.25) == {"scales": [1, 2, 4], "backbone": "unet", "width": 16}
    assert published_parameters(joint) == 106_883_970
    assert published_parameters(UNETMER.row("U-Netmer <4> without T")) == 31_042_434


def test_rows_are_chosen_by_name_or_kind_in_the_papers_order() -> None:
    named = choose_rows(UNETMER, ("MedT", "U-Net"))
    assert [row.name for row in named] == ["U-Net", "MedT"]
    assert len(choose_rows(UNETMER, ("core", "U-Net", "Attention U-Netmer <1|2>"))) == 7
    assert choose_rows(UNETMER, ("all",)) == UNETMER.rows
    assert choose_rows(UNETMER, ("none",)) == ()
    with pytest.raises(UserError, match="unknown row 'U-Nat'"):
        choose_rows(UNETMER, ("U-Nat",))


def test_printed_figures() -> None:
    table = printed("unetmer")
    # 7 scale sets and 13 models on 7 data sets; 7 models on 7 data sets with 5 metrics
    assert len(table) == 7 * 7 + 13 * 7 + 7 * 7 * 5
    assert table["I", "U-Netmer <1|2|4>", "Kvasir", "dice"] == (80.16, 20.94)
    assert table["III", "MedT", "Pancreas", "dice"] == (43.27, 14.87)
    assert table["II", "U-Netmer++", "BUID", "specificity"] == (98.90, 1.46)
    assert printed_text("unetmer", "III", "U-Net", "ACDC", "dice") == "92.84±4.06"
    assert printed_text("unetmer", "III", "U-Net", None, "dice") == "–"  # noqa: RUF001
