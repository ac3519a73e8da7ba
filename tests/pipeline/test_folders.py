"""A run folder is claimed only where nothing of the user is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overread.errors import UserError
from overread.pipeline.folders import RunFolder, RunRecord, check_free, claim, replace_folder, restore_folder
from overread.records import PrepareSettings

RECORD = RunRecord(
    data="/data", cache="/cache", prepare=PrepareSettings(), tracking_uri=None, experiment="set", search_id="s"
)


def test_a_new_folder_gets_its_record(tmp_path: Path) -> None:
    folder = claim(tmp_path / "run", RECORD, resume=False, overwrite=False)
    assert folder.load() == RECORD
    assert folder.winners == tmp_path / "run" / "winners.json"


def test_an_existing_folder_needs_resume_or_overwrite(tmp_path: Path) -> None:
    claim(tmp_path / "run", RECORD, resume=False, overwrite=False)
    with pytest.raises(UserError, match="--resume, --overwrite or another --out"):
        check_free(tmp_path / "run", resume=False, overwrite=False)


def test_overwrite_empties_a_run_folder_but_no_other(tmp_path: Path) -> None:
    claim(tmp_path / "run", RECORD, resume=False, overwrite=False)
    (tmp_path / "run" / "old.txt").write_text("old")
    claim(tmp_path / "run", RECORD, resume=False, overwrite=True)
    assert not (tmp_path / "run" / "old.txt").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(UserError, match="deletes only run folders"):
        claim(tmp_path / "thesis", RECORD, resume=False, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_resume_keeps_the_first_record_and_refuses_other_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run\.json"):
        claim(tmp_path / "run", RECORD, resume=True, overwrite=False)
    claim(tmp_path / "run", RECORD, resume=False, overwrite=False)
    resumed = claim(tmp_path / "run", replace(RECORD, search_id="later"), resume=True, overwrite=False)
    assert resumed.load().search_id == "s"
    with pytest.raises(UserError, match="same data and preparation"):
        claim(tmp_path / "run", replace(RECORD, data="/other"), resume=True, overwrite=False)


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        check_free(tmp_path, resume=True, overwrite=True)


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a run folder"):
        RunFolder(tmp_path).load()


def test_a_folder_is_replaced_whole_or_comes_back(tmp_path: Path) -> None:
    folder, new, aside = (tmp_path / name for name in ("package", "new", "package.replaced"))

    def written(place: Path, text: str) -> Path:
        place.mkdir()
        (place / "text").write_text(text)
        return place

    replace_folder(folder, written(new, "first"))
    replace_folder(folder, written(new, "second"))
    assert (folder / "text").read_text() == "second"
    with pytest.raises(FileNotFoundError):
        replace_folder(folder, new)  # there is none
    folder.rename(aside)  # as if killed halfway
    restore_folder(folder)
    written(aside, "stale")  # as if killed before it was deleted
    restore_folder(folder)
    assert (folder / "text").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
