from pathlib import Path

from overread.architectures import ARCHITECTURES, Segmenter, build_segmenter
from overread.records import TrialConfig


def test_every_architecture_is_registered_and_described():
    assert set(ARCHITECTURES) >= {"unet", "unetmer", "unet_sharp"}
    spaces = Path(__file__).parents[2] / "search_spaces"
    for name in ARCHITECTURES:
        described = ARCHITECTURES[name].describe()
        assert (spaces / f"{name}.py").is_file()
        assert described["name"] == name
        assert described["parameters"] > 300_000
        assert ARCHITECTURES[name].options.from_json(described["options"]) is not None


def test_a_config_builds_its_segmenter():
    config = TrialConfig(
        architecture="unet", options={"width": 2, "depth": 2}, in_channels=1, classes=2, patch_size=(8, 8), steps=1
    )
    built = build_segmenter(config)
    assert isinstance(built, Segmenter)
    assert built.needs.size_multiple == 2
