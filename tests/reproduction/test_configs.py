"""From rows to configs: seeds differ in nothing else, and what is read is what no row trained on."""

from dataclasses import replace
from pathlib import Path

from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.reproduction.configs import prepare_settings, row_config
from overread.reproduction.failure import PROTOCOLS
from overread.reproduction.paper import Row
from overread.reproduction.program import held_out


def test_rows_of_an_ensemble_of_seeds_differ_in_the_seed_alone(tmp_path: Path) -> None:
    data = write_phantom(tmp_path / "phantom", PhantomSettings(cases=20, size=32, seed=1))
    protocol = PROTOCOLS["small"]
    prepared = prepare_dataset(data, prepare_settings(protocol, 7), tmp_path / "cache")
    first, second = (row_config(Row(name="U", architecture="unet", seed=n), protocol, prepared, 7) for n in (0, 4))
    assert (first.seed, second.seed) == (7, 11) and replace(second, seed=7) == first
    splits = prepared.splits
    assert len(splits.locked) == 4 and len(splits.calibration) == 3  # 20 % and 15 % of 20
    assert held_out(protocol, prepared, 0) == (*splits.locked, *splits.calibration, *splits.folds[0])
    assert held_out(replace(protocol, read_all=False), prepared, 0) == splits.locked
    assert held_out(replace(protocol, cross_validated=True), prepared, 1) == splits.folds[1]
