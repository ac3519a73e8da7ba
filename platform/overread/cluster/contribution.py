"""What a trial adds to the current ensemble of its search, measured where it was trained."""

from __future__ import annotations

import logging
from pathlib import Path

from overread.cluster.job import TrialJob
from overread.jsonio import read_json
from overread.records import Prepared, TrialOutcome

CURRENT, GAIN, READINGS = "ensemble.json", "gain.json", "readings.npz"
logger = logging.getLogger(__name__)


def current_members(search: Path) -> tuple[str, ...]:
    """Return the trial ids of the current ensemble of a search folder."""
    path = search / CURRENT
    return tuple(read_json(path)["members"]) if path.is_file() else ()


def measure_contribution(job: TrialJob, prepared: Prepared, outcome: TrialOutcome) -> None:
    """Write the trial's validation readings and its gain, unless they are there; what fails is told in the log.

    A trial without a gain counts as failed for the study; its weights and Dice stay. It is measured on the threads of
    one worker: the process of a trial with a group of workers has none of its own, and theirs have ended.
    """
    if not job.by_gain or outcome.state != "finished" or (job.path / GAIN).is_file():
        return
    import torch

    from overread.ensemble.gain import gain_of, keep_readings

    torch.set_num_threads(job.threads)
    try:
        assert outcome.weights is not None  # noqa: S101  (a finished trial has them)
        trials = job.path.parent
        cases = prepared.splits.fold(outcome.config.fold).validation
        device = torch.device("cuda" if job.gpus_per_worker and torch.cuda.is_available() else "cpu")
        own = job.path / READINGS
        keep_readings(own, prepared, cases, outcome.config, job.path / outcome.weights, device)
        members = {member: trials / member / READINGS for member in current_members(trials.parent)}
        gain_of(prepared, cases, members, own).save(job.path / GAIN)
    except Exception as error:  # whatever breaks one trial must not end the search
        logger.warning("trial %s has no gain: %s: %s", job.trial_id, type(error).__name__, error)
