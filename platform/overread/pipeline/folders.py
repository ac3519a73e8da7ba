"""The run folder: where every stage of a run finds and leaves its results.

`run.json` says what the run is about; `search/`, `winners.json`, `ensemble/`, `predictions/`, `report.html` and
`summary.json` appear in the order of the stages. Each is written whole or not at all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import PrepareSettings


@dataclass(frozen=True, kw_only=True)
class RunRecord(JsonRecord):
    """`run.json`: what later stages must know of earlier ones."""

    data: str
    """Root of the data set."""
    cache: str
    """Folder of prepared arrays."""
    prepare: PrepareSettings
    tracking_uri: str | None
    """MLflow store or server; None: `mlflow.db` in the run folder, wherever that is moved to."""
    experiment: str
    """Name of the MLflow experiment: that of the data set."""
    search_id: str
    """Unique per run: the search's runs in MLflow are found by it, also after a resume."""
    seed: int = 0
    retrained_from: str | None = None
    """Run folder whose winners a deep ensemble retrains; None: an ordinary run."""
    retrained_winners: str | None = None
    """Their fingerprint; None: also of earlier versions."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run folder."""

    root: Path

    @property
    def record(self) -> Path:
        """`run.json`."""
        return self.root / "run.json"

    @property
    def search(self) -> Path:
        """Tune experiment, Optuna journal and trial folders."""
        return self.root / "search"

    @property
    def selection(self) -> Path:
        """`selection.json`: how a greedy selection found the members, and what each brings."""
        return self.root / "selection.json"

    @property
    def folds(self) -> Path:
        """Trainings of the candidates of an out-of-fold selection, one for each other fold."""
        return self.root / "folds"

    @property
    def members(self) -> Path:
        """`members.csv`: what each member of `selection.json` brings, and how alike their errors are."""
        return self.root / "members.csv"

    @property
    def winners(self) -> Path:
        """`winners.json`, frozen before the locked split is read."""
        return self.root / "winners.json"

    @property
    def ensemble(self) -> Path:
        """The ensemble package."""
        return self.root / "ensemble"

    @property
    def calibration(self) -> Path:
        """Readings of the validation fold and of the calibration groups, without masks."""
        return self.root / "calibration"

    @property
    def predictions(self) -> Path:
        """Readings of the locked split."""
        return self.root / "predictions"

    @property
    def results(self) -> Path:
        """`results.json`: Dice and confidence of every locked case, from which report and summary are made."""
        return self.predictions / "results.json"

    @property
    def report(self) -> Path:
        """The review page."""
        return self.root / "report.html"

    @property
    def summary(self) -> Path:
        """The figures of the run."""
        return self.root / "summary.json"

    @property
    def was_read(self) -> bool:
        """Whether the locked split was read to its end with frozen winners: the run has its figures."""
        return self.winners.is_file() and self.results.is_file()

    @property
    def was_looked_at(self) -> bool:
        """Whether frozen winners read any of the locked split, to its end or not: members and calibration stay."""
        return self.winners.is_file() and self.predictions.is_dir() and any(self.predictions.iterdir())

    def load(self) -> RunRecord:
        """Read `run.json`; a folder without one raises `UserError`."""
        if not self.record.is_file():
            raise UserError(
                f"{self.root} must be a run folder with run.json, but it has none: give the --out of a search"
            )
        return RunRecord.load(self.record)


def replace_folder(folder: Path, new: Path) -> None:
    """Put `new`, written whole on the same disk, in the place of `folder`, which is deleted.

    Killed on the way, this leaves the earlier one aside: `restore_folder` brings it back.
    """
    restore_folder(folder)
    if folder.exists():
        folder.rename(_aside(folder))
    try:
        new.rename(folder)
    finally:
        restore_folder(folder)


def restore_folder(folder: Path) -> None:
    """Bring back what an interrupted `replace_folder` moved away, or delete it if its successor is in place."""
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.replaced")


def check_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise `UserError` if `out` holds something that neither `resume` nor `overwrite` allows to touch."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other, but both were given: give one")
    if resume and not (out / "run.json").is_file():
        raise UserError(f"--resume needs an earlier run in {out}, but there is no run.json: leave --resume out")
    if not out.exists() or resume or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{out} must not exist yet, but it does: give --resume, --overwrite or another --out")
    if not (out / "run.json").is_file():
        raise UserError(f"--overwrite deletes only run folders, but {out} has no run.json: delete it yourself")


def claim(out: Path, record: RunRecord, *, resume: bool, overwrite: bool) -> RunFolder:
    """Make `out` the folder of a run: emptied if `overwrite`, continued if `resume`; otherwise it must not exist."""
    check_free(out, resume=resume, overwrite=overwrite)
    folder = RunFolder(out.resolve())
    if resume:
        earlier = folder.load()
        if (earlier.data, earlier.prepare) != (record.data, record.prepare):
            raise UserError(
                f"--resume needs the same data and preparation as before ({earlier.data}), "
                f"but they differ now ({record.data}): use another --out"
            )
        return folder
    if overwrite and out.exists():
        shutil.rmtree(out)
    record.save(folder.record)
    return folder
