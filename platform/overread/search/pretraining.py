"""Pretraining of a DINO teacher on the cluster, from the driver: checks, the worker group, MLflow."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from overread.cluster.job import GROUP, JOB, STOP
from overread.cluster.pretraining import PretrainJob, run_pretraining
from overread.cluster.session import available, require_workers, threads_each
from overread.data.slices import content_of, pretraining_cases
from overread.errors import UserError
from overread.records import EpochReport, Prepared
from overread.search.tracked import guarded
from overread.training.dino import PretrainConfig, collapse
from overread.training.pretraining import (
    CHECKPOINT,
    OUTCOME,
    PICTURES,
    TEACHER,
    PretrainOutcome,
    check_pretraining,
    saved_checkpoint,
)
from overread.training.seen import check_unseen

if TYPE_CHECKING:
    from overread.tracking.pretraining import PretrainTracker

RAY = "ray"
"""Folder of Ray Train's own files while it runs."""
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
    before anything was done. `fresh` deletes the earlier one, its files alone, once all is checked. Raises `UserError`
    for too few CPUs or GPUs, images or weights that do not fit, or a folder that holds another training.
    """
    here = available()
    require_workers(workers, gpus_per_worker, here)
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
    cases = pretraining_cases(prepared, fold)
    earlier = _earlier(out)
    done = None if fresh else job.outcome()
    if not fresh:
        _check_same(job, earlier, done, content_of(prepared, cases))
    if done is not None and done.state == "finished":
        return done
    if deadline is not None and time.time() >= deadline:
        return done
    check_pretraining(config, prepared, cases)
    if config.start is not None:
        check_unseen(Path(config.start), prepared, fold)
    if fresh and earlier is not None:
        _delete(out, tracker)
    (out / OUTCOME).unlink(missing_ok=True)  # of a pretraining whose time was up: it goes on
    job.save(out / JOB)
    log.info("pretraining on %d cases of '%s': %d epochs", len(cases), prepared.dataset, config.epochs)
    _run(job, tracker)
    return PretrainOutcome.load(out / OUTCOME)


def _earlier(folder: Path) -> PretrainJob | None:
    """Return the pretraining that a folder is of, or None; a folder of another training raises `UserError`."""
    if not (folder / JOB).is_file():
        return None
    try:
        return PretrainJob.load(folder / JOB)
    except UserError:
        raise UserError(f"{folder} must be of a pretraining, but it is of another training: give another") from None


def _check_same(job: PretrainJob, earlier: PretrainJob | None, done: PretrainOutcome | None, content: str) -> None:
    """Raise `UserError` if the folder holds a pretraining of another config or other images, before it is touched.

    `content` is the hash of the images: what has ended tells its own, of what has started place and fold are compared.
    """
    started = earlier if saved_checkpoint(job.path) is not None else None
    before = done or started
    if before is None:
        return
    theirs, ours = before.config.to_json(), job.config.to_json()
    changed = [name for name in ours if theirs[name] != ours[name]]
    if done is not None:
        changed += ["fold or data"] if done.data != content else []
    elif started is not None:
        changed += ["fold"] if started.fold != job.fold else []
        # the folder's name holds the hash of data and settings; the cache may have been moved
        changed += ["data"] if Path(started.prepared).name != Path(job.prepared).name else []
    if changed:
        raise UserError(
            f"a pretraining that goes on must keep its settings, but {', '.join(changed)} changed: give the earlier "
            "ones, --overwrite or another folder"
        )


def _delete(folder: Path, tracker: PretrainTracker | None) -> None:
    """Delete the files of a pretraining and its MLflow run; what else is in the folder, such as the store, stays."""
    for name in (CHECKPOINT, PICTURES, RAY):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (OUTCOME, TEACHER, STOP, GROUP, JOB):  # the job last: by it a half-deleted folder is known
        (folder / name).unlink(missing_ok=True)
    if tracker is not None:
        guarded(tracker.delete_pretraining, folder.name)


def _run(job: PretrainJob, tracker: PretrainTracker | None) -> None:
    """Run the workers; every epoch is told and written to MLflow as it ends."""
    scratch = job.path / RAY
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
