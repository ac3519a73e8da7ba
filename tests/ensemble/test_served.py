from pathlib import Path

import numpy as np

from overread.confidence.conformal import LowerBound
from overread.confidence.judgement import MEAN, Judge, Judgement
from overread.ensemble.package import load_package, write_package
from overread.ensemble.served import ServedEnsemble
from overread.testing.drawn import write_members
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared


def test_served_rows_are_judged_where_the_package_is_calibrated(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path / "prepared", cases=3)
    image = np.random.default_rng(0).normal(size=(1, 8, 8))
    with tiny_architecture():
        winners, sources = write_members(tmp_path / "trials", prepared, {"one": (tiny_config(), "main")})
        out = tmp_path / "package"
        write_package(out, winners, sources, prepared, name="test", versions={})
        (plain,) = ServedEnsemble(load_package(out)).predict([image])
        assert plain["mask"].shape == (8, 8)
        assert plain["confidence"]["predicted_dice"] is None
        bound = LowerBound(coverage=0.9, groups=3, rank=4, quantile=None)
        targets = {MEAN: Judge(regressor=None, bound=bound)}
        Judgement(winners=winners.fingerprint(), coverage=0.9, targets=targets, calibration=()).save(
            out / "confidence.json"
        )
        (judged,) = ServedEnsemble(load_package(out)).predict([image])
    assert judged["confidence"]["predicted_dice_per_class"] == {"square": None}  # asked, and not known
    assert plain["confidence"]["predicted_dice_per_class"] == {}
    np.testing.assert_array_equal(judged["mask"], plain["mask"])
