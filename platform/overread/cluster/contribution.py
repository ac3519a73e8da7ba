"""What the trials of a search add to its current ensemble, measured where they were trained.

Gains are relative to an ensemble, so they grow old when it changes: a trial that ends and finds another ensemble than
the last one measures the gains of all trials before it anew, from their stored readings. That happens at most as often
as members join, and leaves the driver to its work; the driver's values lag behind by one trial.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from overread.cluster.job import TrialJob
from overread.ensemble.gain import GAIN, Gain
from overread.jsonio import JsonRecord, read_json
from overread.records import Prepared, TrialOutcome

CURRENT, RENEWED, READINGS = "ensemble.json", "gains.json", "readings.npz"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RenewedGains(JsonRecord):
    """`gains.json` of a search: the gains of all trials against one ensemble."""

    members: tuple[str, ...] = ()
    gains: dict[str, Gain]
    """By trial id; of members against the others."""


def current_members(search: Path) -> tuple[str, ...]:
    """Return the trial ids of the current ensemble of a search folder."""
    path = search / CURRENT
    return tuple(read_json(path)["members"]) if path.is_file() else ()


def renewed_gains(search: Path) -> RenewedGains:
    """Return the gains of a search folder that were last measured anew; none before the first time."""
    path = search / RENEWED
    return RenewedGains.load(path) if path.is_file() else RenewedGains(gains={})


def measure_contribution(job: TrialJob, prepared: Prepared, outcome: TrialOutcome) -> None:
    """Write the trial's validation readings and its gain, unless they are there; what fails is told in the log.

    A trial without a gain counts as failed for the study; its weights and Dice stay. It is measured on the threads of
    one worker: the process of a trial with a group of workers has none of its own, and theirs have ended.
    """
    if not job.by_gain or outcome.state != "finished" or (job.path / GAIN).is_file():
        return
    import torch

    from overread.ensemble.gain import gains_of, keep_readings

    torch.set_num_threads(job.threads)
    trials = job.path.parent
    cases = prepared.splits.fold(outcome.config.fold).validation
    members = current_members(trials.parent)
    try:
        assert outcome.weights is not None  # noqa: S101  (a finished trial has them)
        device = torch.device("cuda" if job.gpus_per_worker and torch.cuda.is_available() else "cpu")
        own = job.path / READINGS
        keep_readings(own, prepared, cases, outcome.config, job.path / outcome.weights, device)
        paths = {name: trials / name / READINGS for name in (*members, job.trial_id)}
        gains_of(prepared, cases, members, (job.trial_id,), paths)[job.trial_id].save(job.path / GAIN)
    except Exception as error:  # whatever breaks one trial must not end the search
        logger.warning("trial %s has no gain: %s: %s", job.trial_id, type(error).__name__, error)
        return
    over = job.deadline is not None and time.time() >= job.deadline  # then nobody asks for another trial
    if over or members == renewed_gains(trials.parent).members:
        return
    try:
        earlier = {path.parent.name: path.with_name(READINGS) for path in sorted(trials.glob(f"*/{GAIN}"))}
        found = gains_of(prepared, cases, members, tuple(earlier), earlier)
        RenewedGains(members=members, gains=found).save(trials.parent / RENEWED)
    except Exception as error:
        logger.warning("gains are not measured anew: %s: %s", type(error).__name__, error)
