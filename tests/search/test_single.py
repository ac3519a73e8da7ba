from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from overread.cluster.job import JOB, TrialJob
from overread.cluster.session import Resources
from overread.cluster.trainable import Worker
from overread.errors import UserError
from overread.records import Prepared, TrialOutcome
from overread.search import single
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two nodes of 4 CPUs, 1 GPU in all; a training ends at once."""

    def end(jobs: Sequence[TrialJob], prepared: Prepared, *, scratch: Path, worker: Worker) -> None:
        (job,) = jobs
        TrialOutcome(trial_id=job.trial_id, config=job.config, state="finished").save(job.path / "outcome.json")

    monkeypatch.setattr(single, "available", lambda: Resources(cpus=8, gpus=1.0, nodes=2, cpus_per_node=4))
    monkeypatch.setattr(single, "train_all", end)
    with tiny_architecture():
        yield


@pytest.mark.parametrize(("workers", "threads"), [(1, 4), (2, 4), (3, 2), (8, 1)])
def test_the_threads_of_a_worker_fit_a_node(two_nodes: None, tmp_path: Path, workers: int, threads: int) -> None:
    single.train_one(tiny_prepared(tmp_path), tiny_config(), tmp_path / "t", workers=workers)
    assert TrialJob.load(tmp_path / "t" / "job.json").threads == threads


def test_every_worker_must_find_its_gpu(two_nodes: None, tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path)
    with pytest.raises(UserError, match="must find 2 GPU, but the cluster has 1"):
        single.train_one(prepared, tiny_config(), tmp_path / "t", workers=2, gpus_per_worker=1.0)
    assert not (tmp_path / "t").exists()
    single.train_one(prepared, tiny_config(), tmp_path / "t", workers=2, gpus_per_worker=0.5)
    assert TrialJob.load(tmp_path / "t" / "job.json").gpus_per_worker == 0.5


def test_a_config_of_other_data_is_refused_before_anything_is_deleted(two_nodes: None, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / JOB).write_text("{}")
    with pytest.raises(UserError, match="must have the data's 1 channels and 2 classes, but it has 1 and 3"):
        single.train_one(tiny_prepared(tmp_path), tiny_config(classes=3), folder, fresh=True)
    assert (folder / JOB).read_text() == "{}"
