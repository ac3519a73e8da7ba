"""One MLflow tree per search: search -> trial -> ensemble.

Every run is found again by a tag, every write may be repeated: an epoch that is already there is not written twice, a
finished trial is written once. So a search killed at any moment can be resumed, and its outcomes replayed, without a
duplicate. A `Tracker` pickles to three strings, as Ray saves the callbacks of a search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.errors import UserError
from overread.records import EpochReport, Manifest, TrialConfig, TrialOutcome, TrialState
from overread.tracking import models, store
from overread.tracking.fields import config_params, final_metrics, flatten, gain_metrics, safe, trial_files

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY, SEARCH, KIND, TRIAL = "overread_key", "overread_search", "overread_kind", "overread_trial"
OUTCOME = "overread_outcome"
"""Fingerprint of the outcome that was written: the same one is not written again."""
STATUS: dict[TrialState, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 900
"""A server refuses more than 100 parameters and 1000 metrics in one call."""


class Tracker:
    """Writes one search into MLflow.

    >>> tracker = Tracker("sqlite:////data/run/mlflow.db", "hippocampus", "search-1")
    >>> tracker
    Tracker('sqlite:////data/run/mlflow.db', 'hippocampus', 'search-1')
    """

    def __init__(self, uri: str, experiment: str, search_id: str) -> None:
        # MLflow's search expressions quote names with ' and know no escape for it
        self.uri, self.experiment, self.search_id = uri, experiment.replace("'", "_"), search_id.replace("'", "_")
        self._forget()

    def __repr__(self) -> str:
        return f"Tracker({self.uri!r}, {self.experiment!r}, {self.search_id!r})"

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri, "experiment": self.experiment, "search_id": self.search_id}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._runs: dict[str, Run] = {}
        self._epochs: dict[str, int] = {}

    @property
    def client(self) -> MlflowClient:
        """The MLflow client, made at first use in each process."""
        if self._client is None:
            self._client = store.client(self.uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """The experiment's id; the experiment is made at first use."""
        if self._experiment_id is None:
            self._experiment_id = self._open_experiment()
        return self._experiment_id

    # ------------------------------------------------------------ search

    def search_run(self, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None) -> str:
        """Open (or reopen, on resume) the run of the search and return its id."""
        run = self._search(tags)
        self._log_params(run, flatten(params or {}))
        self._reopen(run)
        return str(run.info.run_id)

    def end_search(self, state: TrialState = "finished", metrics: Mapping[str, float] | None = None) -> None:
        """Close the run of the search; `metrics` are its summary."""
        run = self._search()
        self._log_metrics(run, metrics or {}, step=0, seconds=0.0)
        self._close(run, STATUS[state])

    def add_files(self, folder: Path, names: Sequence[str]) -> None:
        """Write files and folders of `folder` among the artifacts of the search's run; missing ones are passed over."""
        run_id = self._search().info.run_id
        for name in names:
            path = folder / name
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), name)
            elif path.is_file():
                self.client.log_artifact(run_id, str(path))

    # ------------------------------------------------------------ trials

    def start_trial(self, trial_id: str, config: TrialConfig) -> str:
        """Open (or reopen, after a restart) the run of a trial and return its id."""
        run = self._trial(trial_id, config)
        self._log_params(run, config_params(config))
        self._reopen(run)
        return str(run.info.run_id)

    def log_epoch(self, trial_id: str, report: EpochReport) -> None:
        """Write one validation of a started trial; an epoch that is already there adds nothing.

        The step of every chart is the epoch and the time is the recorded training time, so replays are equal.
        """
        run = self._started(trial_id)
        if report.epoch <= self._last_epoch(trial_id, run):
            return
        clock = {"epoch": report.epoch, "step": report.step, "progress": report.progress, "seconds": report.seconds}
        self._log_metrics(run, report.metrics | clock, step=report.epoch, seconds=report.seconds)
        self._epochs[trial_id] = report.epoch

    def finish_trial(self, trial_id: str, outcome: TrialOutcome, folder: Path) -> str:
        """Write the end of a trial, with config, weights and overlay pictures of its folder; return the run's id.

        Epochs that were never written are written now; the same outcome a second time adds nothing.
        """
        run = self._trial(trial_id, outcome.config)
        run_id = str(run.info.run_id)
        if run.data.tags.get(OUTCOME) == outcome.fingerprint():
            return run_id
        for report in outcome.epochs:
            self.log_epoch(trial_id, report)
        self._log_params(run, config_params(outcome.config))
        step = outcome.epochs[-1].epoch if outcome.epochs else 0
        self._log_metrics(run, final_metrics(outcome) | gain_metrics(folder), step=step, seconds=outcome.seconds)
        self.client.log_text(run_id, json.dumps(outcome.config.to_json(), indent=1) + "\n", "config.json")
        for path in trial_files(outcome, folder):
            self.client.log_artifact(run_id, str(path))
        self.client.set_tag(run_id, "state", outcome.state)
        if outcome.reason:
            self.client.set_tag(run_id, "reason", outcome.reason)
        self._close(run, STATUS[outcome.state])
        self.client.set_tag(run_id, OUTCOME, outcome.fingerprint())  # last: its presence means complete
        return run_id

    def sync(self, outcomes: Mapping[str, tuple[TrialOutcome, Path]]) -> None:
        """Write all outcomes on disk that MLflow does not have yet (after a kill or a lost server)."""
        for trial_id, (outcome, folder) in outcomes.items():
            self.finish_trial(trial_id, outcome, folder)

    def trial_runs(self) -> list[Run]:
        """Return the runs of all trials of this search, as MLflow has them now."""
        return self._find(f"tags.{SEARCH} = '{self.search_id}' and tags.{KIND} = 'trial'")

    # ------------------------------------------------------------ ensemble

    def ensemble_run(self, manifest: Manifest, metrics: Mapping[str, float], folder: Path) -> str:
        """Write an ensemble package with its measured figures below the search, and register it; return the run's id.

        The model's artifacts hold the package whole (`model/data/`); its registered name is that of the ensemble.
        """
        key = f"{self.search_id}/ensemble/{manifest.winners}"
        run = self._run(key, kind="ensemble", name=f"ensemble {manifest.name}", parent=self._search().info.run_id)
        members = {f"member_{i}": f"{m.name} ({m.trial_id}, {m.variant})" for i, m in enumerate(manifest.members, 1)}
        members |= {f"imported_{i}": f"{m.name} ({m.cases} cases)" for i, m in enumerate(manifest.imported, 1)}
        measured = ((m.name, m.own_validation_dice) for m in manifest.voters)
        scores = {f"validation_dice/{name}": dice for name, dice in measured if dice is not None}
        params = {"winners": manifest.winners, "locked_cases": manifest.locked_cases, "seed": manifest.seed}
        self._log_params(run, flatten(members | params))
        self._log_metrics(run, scores | dict(metrics), step=0, seconds=0.0)
        run_id = str(run.info.run_id)
        models.log_package(self.client, run_id, folder)
        models.register(self.client, run_id, safe(manifest.name).replace("/", "_"))
        self._close(run, "FINISHED")
        return run_id

    # ------------------------------------------------------------ inside

    def _open_experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            root = store.artifact_root(self.uri)
            location = None if root is None else (root / safe(self.experiment).replace("/", "_")).as_uri()
            return str(self.client.create_experiment(self.experiment, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise UserError(
                f"MLflow experiment '{self.experiment}' must be active, but it was deleted: "
                "restore it in MLflow or give another name"
            )
        return str(found.experiment_id)

    def _search(self, tags: Mapping[str, str] | None = None) -> Run:
        return self._run(self.search_id, kind="search", name=self.search_id, tags=tags)

    def _trial_key(self, trial_id: str) -> str:
        return f"{self.search_id}/{trial_id}"

    def _trial(self, trial_id: str, config: TrialConfig) -> Run:
        tags = {TRIAL: trial_id, "architecture": config.architecture}
        key, name = self._trial_key(trial_id), f"{config.architecture} {trial_id}"
        return self._run(key, kind="trial", name=name, tags=tags, parent=self._search().info.run_id)

    def _started(self, trial_id: str) -> Run:
        key = self._trial_key(trial_id)
        run = self._runs.get(key) or self._lookup(key)
        if run is None:
            raise ValueError(f"trial '{trial_id}' must be started before it reports: call start_trial first")
        return run

    def _run(self, key: str, *, kind: str, name: str, tags: Mapping[str, str] | None = None, parent: str = "") -> Run:
        """Get or create the run of `key`."""
        run = self._runs.get(key) or self._lookup(key)
        if run is None:
            own = {KEY: key, SEARCH: self.search_id, KIND: kind} | dict(tags or {})
            own |= {"mlflow.parentRunId": parent} if parent else {}
            run = self.client.create_run(self.experiment_id, tags=own, run_name=name)
        self._runs[key] = run
        return run

    def _lookup(self, key: str) -> Run | None:
        if "'" in key:
            raise ValueError(f"run keys must not hold ', but got {key!r}")
        found = self._find(f"tags.{KEY} = '{key}'")
        if found:
            self._runs[key] = found[0]
        return found[0] if found else None

    def _find(self, condition: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment_id], condition, max_results=500, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def _last_epoch(self, trial_id: str, run: Run) -> int:
        if trial_id not in self._epochs:
            fresh = self.client.get_run(run.info.run_id)  # another process may have written since the run was found
            self._epochs[trial_id] = int(fresh.data.metrics.get("epoch", 0))
        return self._epochs[trial_id]

    def _reopen(self, run: Run) -> None:
        if run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
            self._runs.pop(run.data.tags[KEY], None)  # what is remembered of it is out of date

    def _close(self, run: Run, status: str) -> None:
        self.client.set_terminated(run.info.run_id, status)
        self._runs.pop(run.data.tags[KEY], None)

    def _log_params(self, run: Run, params: Mapping[str, str]) -> None:
        """Write the parameters that are not there yet: MLflow refuses to change one (`steps` follows a timed step)."""
        from mlflow.entities import Param

        known = self.client.get_run(run.info.run_id).data.params if params else {}
        missing = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(missing), PARAMS_PER_CALL):
            self.client.log_batch(run.info.run_id, params=missing[start : start + PARAMS_PER_CALL])

    def _log_metrics(self, run: Run, metrics: Mapping[str, float], *, step: int, seconds: float) -> None:
        """Write finite metrics at the recorded time, so that the same values twice are one point."""
        from mlflow.entities import Metric

        time = int(run.info.start_time) + round(1000 * seconds)
        finite = [Metric(safe(name), float(v), time, step) for name, v in metrics.items() if math.isfinite(v)]
        for start in range(0, len(finite), METRICS_PER_CALL):
            self.client.log_batch(run.info.run_id, metrics=finite[start : start + METRICS_PER_CALL])
