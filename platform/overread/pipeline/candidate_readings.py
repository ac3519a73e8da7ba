"""Validation cases read by every candidate for an ensemble, into a scratch folder of the run: float16, native grid.

Networks read the cases that they were held out from, imported members give what they have; a candidate that fails, or
has not read every case, is left out.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from overread.data.layouts import read_dataset
from overread.data.prepare import MapCases
from overread.data.readings import find_readings, grid_of, read_reading
from overread.data.store import open_case
from overread.ensemble.candidates import StoredPredictions
from overread.ensemble.fusion import Probabilities
from overread.ensemble.selection import Candidate
from overread.errors import UserError
from overread.jsonio import write_with
from overread.metrics.overlap import Ids
from overread.pipeline.folding import FoldTrainings
from overread.pipeline.stages import Run, image_files
from overread.records import ImportedMember, Prepared, TrialConfig

Candidates = dict[str, Candidate | ImportedMember]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """A training, and the cases that it may read: it was held out from them."""

    config: TrialConfig
    weights: Path
    cases: tuple[str, ...]


@dataclass(frozen=True)
class CandidateTask:
    """One candidate to read all validation cases."""

    imported: ImportedMember | None
    variant: str
    readers: tuple[Reader, ...]
    """One for each fold; none of an imported member."""
    prepared: Prepared
    cases: tuple[str, ...]
    out: Path
    gpu: bool
    images: Mapping[str, str]
    """First image file by case: the grid that imported readings are brought to."""


@dataclass(frozen=True)
class ReadPredictions(StoredPredictions):
    """The candidates' files, with the truths of the prepared data set."""

    prepared: Prepared

    def truth(self, case: str) -> Ids:
        """Return the true class ids (*S), memory-mapped."""
        return open_case(self.prepared, case).truth


@contextmanager
def read_candidates(
    run: Run,
    found: Candidates,
    cases: tuple[str, ...],
    map_cases: MapCases,
    gpus: float,
    trained: FoldTrainings | None = None,
) -> Iterator[ReadPredictions]:
    """Let every candidate read the cases into a scratch folder; those that fail are left out."""
    from overread.cluster.tasks import on_gpus

    files = image_files(read_dataset(Path(run.record.data))) if _any_imported(found) else {}
    images = {case: files[case][0] for case in cases if case in files}
    with tempfile.TemporaryDirectory(dir=run.folder.root, prefix=".candidates-") as scratch:
        tasks = [
            CandidateTask(
                imported=None if isinstance(c, Candidate) else c,
                variant=c.score.variant if isinstance(c, Candidate) else c.variant,
                readers=_readers(c, run.prepared, cases, trained or {}) if isinstance(c, Candidate) else (),
                prepared=run.prepared,
                cases=cases,
                out=Path(scratch) / name,
                gpu=gpus > 0,
                images=images,
            )
            for name, c in found.items()
        ]
        reasons = on_gpus(map_cases, gpus)(read_candidate, tasks, "Reading candidates")
        members = tuple(name for name, reason in zip(found, reasons, strict=True) if not reason)
        groups = tuple(run.prepared.case(case).group for case in cases)
        yield ReadPredictions(Path(scratch), members, cases, groups, run.prepared)


def read_candidate(task: CandidateTask) -> str:
    """Write the probabilities of every case as one candidate reads it; return why it could not, or nothing."""
    try:
        _write(task)
    except Exception as error:  # whatever breaks one candidate must not end the selection
        reason = f"{type(error).__name__}: {error}"
        log.warning("candidate %s is left out: %s", task.out.name, reason)
        return reason
    return ""


def _readers(
    candidate: Candidate, prepared: Prepared, cases: Sequence[str], trained: FoldTrainings
) -> tuple[Reader, ...]:
    """Return the trainings of a candidate with the cases that each held out."""
    own = candidate.outcome.config
    trainings = {own.fold: (own, candidate.weights), **trained.get(candidate.outcome.trial_id, {})}
    wanted = set(cases)
    return tuple(
        Reader(config, weights, tuple(case for case in prepared.splits.fold(fold).validation if case in wanted))
        for fold, (config, weights) in trainings.items()
    )


def _write(task: CandidateTask) -> None:
    readings = _predicted(task) if task.imported is None else _imported(task, task.imported)
    for case, found in readings:
        half = found.astype(np.float16)
        if not np.isfinite(half).all():
            raise ArithmeticError("its probabilities are not finite")
        write_with(task.out / f"{case}.npy", lambda path, array=half: np.save(path, array))  # type: ignore[misc]


def _imported(task: CandidateTask, member: ImportedMember) -> Iterator[tuple[str, Probabilities]]:
    prepared = task.prepared
    readings = find_readings(Path(member.folder), task.cases, prepared.label_names)
    for case in task.cases:
        if case not in readings:
            raise UserError(f"it must have read every validation case, but {case} is missing")
        grid = grid_of(Path(task.images[case]))
        yield case, read_reading(readings[case], grid, prepared.label_names, prepared.label_values)


def _predicted(task: CandidateTask) -> Iterator[tuple[str, Probabilities]]:
    import torch

    from overread.training.evaluate import predict_probabilities
    from overread.training.inference import load_segmenter

    device = torch.device("cuda" if task.gpu and torch.cuda.is_available() else "cpu")
    held_out = {case for reader in task.readers for case in reader.cases}
    if missing := [case for case in task.cases if case not in held_out]:
        raise UserError(f"every case must be held out from a training, but {len(missing)} are from none: train again")
    for reader in task.readers:
        segmenter = load_segmenter(reader.config, reader.weights, device)
        variant = segmenter.variant(task.variant)
        for case in reader.cases:
            yield case, predict_probabilities(segmenter, task.prepared, case, reader.config, variant, device)


def _any_imported(found: Candidates) -> bool:
    return any(isinstance(candidate, ImportedMember) for candidate in found.values())


def lacking_disk(run: Run, cases: Sequence[str], candidates: int) -> str:
    """Return why the candidates' probabilities do not fit the disk, or nothing."""
    voxels = sum(prod(run.prepared.case(case).native_shape) for case in cases)
    needed = 2 * run.prepared.classes * voxels * candidates + 4 * run.prepared.classes * voxels
    free = shutil.disk_usage(run.folder.root).free
    if needed <= 0.9 * free:
        return ""
    return (
        f"{run.folder.root} must have {needed / 2**30:.1f} GiB for the probabilities of {candidates} candidates, "
        f"but {free / 2**30:.1f} GiB are free: make room"
    )
