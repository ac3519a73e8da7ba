"""Options that are folders by name."""

from pathlib import Path

import pytest

from overread.cli._options import first_relative, named_folders
from overread.errors import UserError


def test_folders_are_named_and_relative_ones_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a=b").mkdir()
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    found = named_folders("--member", [f"nnunet={tmp_path / 'a=b'}", "me=own"])
    assert found == {"nnunet": tmp_path / "a=b", "me": Path("own")}  # the first = ends the name
    assert first_relative(found) == Path("own")
    assert first_relative({"nnunet": tmp_path}) is None


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["own"], "must be NAME=FOLDER with a folder of masks, but got 'own'"),
        (["=own"], "must be NAME=FOLDER .* but got '=own'"),
        (["a="], "must be NAME=FOLDER .* but got 'a='"),
        (["a=nowhere"], "a must be a folder of masks, but nowhere is none"),
        (["a=own", "a=own"], "must have a new name each time, but a is there twice"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], told: str) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--imported {told}"):
        named_folders("--imported", texts)
