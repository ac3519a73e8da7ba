"""Pretraining of a DINO teacher on the cluster, from the driver: checks, the worker group, MLflow."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from overread.cluster.job import JOB
from overread.cluster.pretraining import PretrainJob, run_pretraining
from overread.cluster.session import available, require_gpus, threads_each
from overread.data.slices import pretraining_cases
from overread.errors import UserError
from overread.records import EpochReport, Prepared
from overread.search.tracked import guarded
from overread.training.dino import PretrainConfig, collapse
from overread.training.pretraining import OUTCOME, PretrainOutcome, check_pretraining, saved_checkpoint

if TYPE_CHECKING:
    from overread.tracking.pretraining import PretrainTracker

log = logging.getLogger(__name__)


def pretrain_teacher(
    prepared: Prepared,
    config: PretrainConfig,
    out: Path,
    *,
    fold: int = 0,
    workers: int = 1,
    gpus_per_worker: float = 0.0,
    deadline: float | None = None,
    tracker: PretrainTracker | None = None,
    fresh: bool = False,
) -> PretrainOutcome | None:
    """Pretrain into `out`, going on from its checkpoint if there is one (`fresh`: from the start).

    `prepared` has the unlabelled images with it. Must run inside a Ray session. A pretraining that is finished is
    returned as it is; one whose deadline (Unix time) passes ends as `stopped`, and None is returned where it had passed
    before anything was done. Raises `UserError` for too few CPUs or GPUs, images or weights that do not fit, or a
    folder that holds another pretraining.
    """
    here = available()
    if workers > here.cpus:
        raise UserError(f"workers must find a CPU each, but {workers} workers share {here.cpus}: use fewer or --cpus")
    require_gpus(gpus_per_worker * workers, here)
    out = out.resolve()
    job = PretrainJob(
        trial_id=out.name,
        folder=str(out),
        config=config,
        prepared=prepared.root,
        fold=fold,
        workers=workers,
        threads=threads_each(workers, here.cpus, here.cpus_per_node),
        gpus_per_worker=gpus_per_worker,
        deadline=deadline,
    )
    if fresh and (out / JOB).is_file():
        shutil.rmtree(out)
    done = job.outcome()
    _check_folder(job, done)
    if done is not None and done.state == "finished":
        return done
    if deadline is not None and time.time() >= deadline:
        return done
    cases = pretraining_cases(prepared, fold)
    check_pretraining(config, prepared, cases)
    (out / OUTCOME).unlink(missing_ok=True)  # of a pretraining whose time was up: it goes on
    job.save(out / JOB)
    log.info("pretraining on %d cases of '%s': %d epochs", len(cases), prepared.dataset, config.epochs)
    _run(job, tracker)
    return PretrainOutcome.load(out / OUTCOME)


def _check_folder(job: PretrainJob, done: PretrainOutcome | None) -> None:
    """Raise `UserError` if the folder holds a pretraining of another config, before it is touched."""
    started = saved_checkpoint(job.path) is not None and (job.path / JOB).is_file()
    before = done.config if done is not None else PretrainJob.load(job.path / JOB).config if started else None
    if before is not None and before != job.config:
        theirs, ours = before.to_json(), job.config.to_json()
        changed = ", ".join(name for name in ours if theirs[name] != ours[name])
        raise UserError(
            f"a pretraining that goes on must keep its settings, but {changed} changed: give the earlier ones, "
            "--overwrite or another folder"
        )


def _run(job: PretrainJob, tracker: PretrainTracker | None) -> None:
    """Run the workers; every epoch is told and written to MLflow as it ends."""
    scratch = job.path / "ray"
    shutil.rmtree(scratch, ignore_errors=True)  # Train's own files of a killed session: nothing is read from them
    if tracker is not None:
        guarded(tracker.start_pretraining, job.trial_id, job.config, passing=(UserError,))

    def note(report: EpochReport) -> None:
        told(report, job.config)
        if tracker is not None:
            guarded(tracker.log_pretraining, job.trial_id, report, job.path)

    try:
        run_pretraining(job, note)
    except Exception:
        if tracker is not None:
            guarded(tracker.finish_pretraining, job.trial_id, None, job.path)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if tracker is not None:
        guarded(tracker.finish_pretraining, job.trial_id, job.outcome(), job.path)


def told(report: EpochReport, config: PretrainConfig) -> None:
    """Log an epoch; a teacher that has collapsed is a warning that says how, and what to do."""
    metrics = report.metrics
    entropy, spread = metrics["teacher_entropy"], metrics["teacher_spread"]
    line = f"epoch {report.epoch} of {config.epochs}: loss {metrics['loss']:.4f}, teacher entropy {entropy:.3f}"
    if metrics["collapsed"]:
        log.warning("%s; %s", line, collapse(entropy, spread, config.outputs))
    else:
        log.info("%s", line)
