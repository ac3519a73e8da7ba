"""From options to the config of a pretraining, and a whole one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from overread.cli import main
from overread.cli.pretrain import pretrain_config
from overread.cluster.session import session
from overread.data.phantom import PhantomSettings, write_phantom
from overread.errors import UserError
from overread.jsonio import write_json
from overread.training.dino import PretrainConfig
from overread.training.pretraining import attention_options

OPTIONS: dict[str, Any] = {
    "config": None, "vit": "small", "patch": 16, "depth": 12, "image_size": 250, "local_size": None, "local_crops": 8,
    "outputs": 65536, "head_batch_norm": False,
    "epochs": 800, "batch_size": 64, "learning_rate": 1e-4, "start": None, "seed": 0,
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


@pytest.mark.ray
def test_a_teacher_is_pretrained_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVERREAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    data, out = write_phantom(tmp_path / "data", PhantomSettings(cases=12, size=16)), tmp_path / "dino"
    small = ["--patch", "8", "--depth", "1", "--image-size", "16", "--local-crops", "1", "--outputs", "16"]
    command = ["pretrain", "--data", str(data), "--out", str(out), *small, "--epochs", "1", "--batch-size", "4"]

    def run(*more: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as end:
            main([*command, *more])
        captured = capsys.readouterr()
        return end.value.code, captured.out + captured.err

    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "resnet.pth")
    with session(num_cpus=2):
        code, text = run("--start", str(tmp_path / "resnet.pth"))
        assert code == 2
        assert "weights must be those of a ViT, but they lack cls_token, pos_embed" in text
        assert "they have unexpected conv1.weight" in text
        code, text = run("--patch", "32", "--image-size", "32")
        assert code == 2
        assert "images must be at least one patch, 32 pixels, on each side, but 6 of 6" in text
        code, text = run()
        assert code == 0, text
        assert f"--teacher {out}" in text
    assert attention_options(out).image_size == 16
    code, text = run()
    assert (code, "must not hold a training, but it does: give --resume" in text) == (2, True)
