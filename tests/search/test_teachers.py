from pathlib import Path

import pytest

from overread.architectures.attention_maps import AttentionOptions
from overread.errors import UserError
from overread.records import Prepared
from overread.search import teachers
from overread.testing.tiny import tiny_config, tiny_prepared


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Data, and pretrainings whose image size is the length of their folder's name."""

    def options(folder: Path, prepared: Prepared, fold: int) -> AttentionOptions:
        return AttentionOptions(image_size=16 * len(folder.name))

    monkeypatch.setattr(teachers, "attention_options", options)
    return tiny_prepared(tmp_path / "data")


def test_teachers_keep_their_order(prepared: Prepared) -> None:
    found = teachers.read_teachers(["/a/four", "/b/one"], prepared, 0)
    assert [options["image_size"] for options in found] == [64, 48]


def test_a_config_gets_its_teacher(prepared: Prepared) -> None:
    config = tiny_config(architecture="dai_net", options={"width": 4})
    made = teachers.with_teacher(config, Path("/dino/four"), prepared)
    assert made.options["width"] == 4
    assert AttentionOptions.from_json(made.options["attention"]).image_size == 64


@pytest.mark.parametrize("architecture", ["unet", "r2u_net"])  # the option `attention` of the latter is another
def test_other_networks_take_no_teacher(prepared: Prepared, architecture: str) -> None:
    assert not teachers.takes_maps(architecture)
    with pytest.raises(UserError, match=f"{architecture} takes none"):
        teachers.with_teacher(tiny_config(architecture=architecture), Path("/dino"), prepared)
