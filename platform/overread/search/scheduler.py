"""The Tune scheduler that acts on `search.stopping`: it asks a trial to end instead of killing it.

A trial that is asked ends after its current steps, evaluates its variants and writes its outcome, so its weights may
still serve in an ensemble. Nothing is killed, so no worker group can leak its CPUs (ray issue 54305).
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from overread.cluster.job import request_stop
from overread.cluster.trainable import parse_job
from overread.search.stopping import FairStopping


class FairScheduler(FIFOScheduler):
    """Runs trials in the order of the searcher and stops them by the policy."""

    def __init__(self, policy: FairStopping, enabled: bool = True) -> None:
        super().__init__()
        self.policy = policy
        self.enabled = enabled

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler for a restore that we do not use

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Note a validation; ask the trial to stop when the policy says so."""
        if "report" in result and self.enabled:
            job = parse_job(trial.config)
            reason = self.policy.record(job.trial_id, int(result["progress"]), float(result["validation_dice"]))
            if reason is not None:
                request_stop(job.path, f"early stopping: {reason}")
        return str(TrialScheduler.CONTINUE)
