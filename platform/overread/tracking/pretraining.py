"""A pretraining in MLflow: curves, attention pictures per epoch, the teacher. Repeated writes add nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from overread.records import EpochReport, TrialState
from overread.tracking.fields import flatten
from overread.tracking.runs import STATUS, Tracker
from overread.training.dino import PretrainConfig
from overread.training.pretraining import OUTCOME, PICTURES, TEACHER, PretrainOutcome, picture

if TYPE_CHECKING:
    from mlflow.entities import Run


class PretrainTracker(Tracker):
    """Writes pretrainings, below the run of the search (or reproduction) where that is open, else at the top."""

    def start_pretraining(self, name: str, config: PretrainConfig) -> str:
        """Open (or reopen, on resume) the run of a pretraining and return its id."""
        run = self._pretraining(name)
        self._log_params(run, flatten(config.to_json()))
        self._reopen(run)
        return str(run.info.run_id)

    def log_pretraining(self, name: str, report: EpochReport, folder: Path) -> None:
        """Write an epoch of a started pretraining and its picture; one that is already there adds nothing."""
        run, path = self._started(name), picture(folder, report.epoch)
        if report.epoch > self._last_epoch(name, run) and path.is_file():
            self.client.log_artifact(run.info.run_id, str(path), PICTURES)
        self.log_epoch(name, report)

    def finish_pretraining(self, name: str, outcome: PretrainOutcome | None, folder: Path) -> None:
        """Write the end: what was not written before, the teacher, and a warning as a tag. None: it failed."""
        run = self._pretraining(name)
        run_id = str(run.info.run_id)
        for report in outcome.epochs if outcome is not None else ():
            self.log_pretraining(name, report, folder)
        for file in (OUTCOME, TEACHER) if outcome is not None else ():
            self.client.log_artifact(run_id, str(folder / file))
        if outcome is not None and outcome.warning:
            self.client.set_tag(run_id, "warning", outcome.warning)
        state: TrialState = "failed" if outcome is None else outcome.state
        self.client.set_tag(run_id, "state", state)
        self._close(run, STATUS[state])

    def delete_pretraining(self, name: str) -> None:
        """Delete the run of an earlier pretraining, if there is one: the next of this name gets a run of its own."""
        key = self._trial_key(name)
        run = self._lookup(key)
        if run is not None:
            self.client.delete_run(run.info.run_id)
        self._runs.pop(key, None)
        self._epochs.pop(name, None)

    def _pretraining(self, name: str) -> Run:
        above = self._lookup(self.search_id)
        parent = "" if above is None else str(above.info.run_id)
        return self._run(self._trial_key(name), kind="pretraining", name=name, parent=parent)
