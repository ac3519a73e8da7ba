"""From options to the config of a pretraining."""

from pathlib import Path
from typing import Any

import pytest

from overread.cli.pretrain import pretrain_config
from overread.errors import UserError
from overread.jsonio import write_json
from overread.training.dino import PretrainConfig

OPTIONS: dict[str, Any] = {
    "config": None, "vit": "small", "patch": 16, "depth": 12, "image_size": 250, "local_size": None, "local_crops": 8,
    "outputs": 65536, "epochs": 800, "batch_size": 64, "learning_rate": 1e-4, "start": None, "seed": 0,
}  # fmt: skip


def test_the_published_options_are_the_published_config() -> None:
    assert pretrain_config(OPTIONS) == PretrainConfig()  # 250 pixels: the next 16 patches, and 6 of them a local crop


def test_short_trainings_shorten_their_phases() -> None:
    config = pretrain_config(OPTIONS | {"epochs": 20, "patch": 32, "image_size": 96, "start": Path("dino.pth")})
    assert (config.warm_up_epochs, config.temperature_epochs, config.frozen_epochs) == (2, 5, 1)
    assert (config.crops.size, config.crops.local_size) == (96, 32)
    assert config.start == str(Path("dino.pth").resolve())
    assert pretrain_config(OPTIONS | {"epochs": 2}).warm_up_epochs == 0


def test_a_config_is_read_from_its_file_or_that_of_a_pretraining(tmp_path: Path) -> None:
    config = PretrainConfig(epochs=3)
    write_json(tmp_path / "config.json", config.to_json())
    write_json(tmp_path / "job.json", {"config": config.to_json()})
    for name in ("config.json", "job.json"):
        assert pretrain_config(OPTIONS | {"config": tmp_path / name}) == config
    with pytest.raises(UserError, match="patch must divide 224"):
        pretrain_config(OPTIONS | {"patch": 12})
