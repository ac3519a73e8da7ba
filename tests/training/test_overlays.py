from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from overread.architectures.contract import build_segmenter
from overread.records import Prepared
from overread.testing.tiny import tiny_config
from overread.training.evaluate import Workers, score_variant
from overread.training.overlays import PICTURES, write_overlays


def test_one_picture_with_a_panel_per_case(tmp_path: Path, prepared: Prepared) -> None:
    segmenter, device = build_segmenter(tiny_config()).eval(), torch.device("cpu")
    ids = [case.id for case in prepared.cases]
    score = score_variant(segmenter, prepared, ids, tiny_config(), None, Workers(0, 1, device))
    write_overlays(tmp_path / "o.png", segmenter, prepared, tiny_config(), score, device)
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width >= PICTURES * 256


def test_a_single_case_gives_a_single_panel(tmp_path: Path, prepared: Prepared) -> None:
    segmenter, device = build_segmenter(tiny_config()).eval(), torch.device("cpu")
    score = score_variant(segmenter, prepared, ["case0"], tiny_config(), None, Workers(0, 1, device))
    write_overlays(tmp_path / "o.png", segmenter, prepared, tiny_config(), score, device)
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width < 2 * 256
