"""The driver of a pretraining and its folder; the workers' part runs in this process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from overread.architectures.vit import ViTOptions
from overread.cluster.job import JOB, TrialJob
from overread.cluster.pretraining import PretrainJob
from overread.cluster.session import Resources
from overread.data.slices import Slices, pretraining_cases
from overread.errors import UserError
from overread.records import EpochReport, Prepared
from overread.search import pretraining
from overread.search.pretraining import pretrain_teacher
from overread.testing.tiny import tiny_config, tiny_prepared
from overread.tracking.pretraining import PretrainTracker
from overread.tracking.store import resolve_uri
from overread.training.dino import PretrainConfig
from overread.training.multi_crop import MultiCrop
from overread.training.pretraining import OUTCOME, TEACHER, PretrainOutcome, pretrain, saved_checkpoint
from overread.training.worker import WorkerContext

CONFIG = PretrainConfig(
    vit=ViTOptions(size="tiny", patch=8, depth=1), crops=MultiCrop(size=16, local_size=8, local_crops=1),
    outputs=16, hidden=8, bottleneck=4, batch_size=4, epochs=1, warm_up_epochs=0, mixed_precision=False,
)  # fmt: skip


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Six images in two folds; a pretraining of them runs here."""
    made = tiny_prepared(tmp_path / "data", cases=6, shape=(1, 16, 16))

    def run(job: PretrainJob, note: Callable[[EpochReport], object]) -> None:
        def report(epoch: EpochReport, saved: Path | None) -> None:
            note(epoch)

        cpu, saved = torch.device("cpu"), saved_checkpoint(job.path)
        context = WorkerContext(
            trial_id=job.trial_id, folder=job.path, device=cpu, threads=1, report=report, resume=saved
        )
        pretrain(job.config, Slices(made, pretraining_cases(made, job.fold)), context)

    monkeypatch.setattr(pretraining, "run_pretraining", run)
    monkeypatch.setattr(pretraining, "available", lambda: Resources(cpus=1, gpus=0, cpus_per_node=1, nodes=1))
    return made


def test_a_finished_pretraining_is_that_of_its_own_images(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "dino"
    outcome = pretrain_teacher(prepared, CONFIG, out)
    assert pretrain_teacher(prepared, CONFIG, out) == outcome
    with pytest.raises(UserError, match="but fold or data changed"):
        pretrain_teacher(prepared, CONFIG, out, fold=1)
    with pytest.raises(UserError, match="but fold or data changed"):
        pretrain_teacher(replace(prepared, content="other"), CONFIG, out)
    with pytest.raises(UserError, match="but seed changed"):
        pretrain_teacher(prepared, replace(CONFIG, seed=1), out)


def test_one_that_has_started_keeps_fold_and_data(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "dino"
    pretrain_teacher(prepared, CONFIG, out)
    (out / OUTCOME).unlink()
    with pytest.raises(UserError, match="but fold changed"):
        pretrain_teacher(prepared, CONFIG, out, fold=1)
    with pytest.raises(UserError, match="but data changed"):
        pretrain_teacher(replace(prepared, root=str(tmp_path / "data-of-another-size")), CONFIG, out)
    moved = replace(prepared, root=str(tmp_path / "moved" / "data"))  # another place, the same data
    (tmp_path / "moved").mkdir()
    Path(prepared.root).rename(moved.root)
    Path(prepared.root).symlink_to(moved.root)
    assert pretrain_teacher(moved, CONFIG, out) is not None


def test_a_fresh_one_replaces_the_earlier_and_its_run_alone(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "dino"
    tracker = PretrainTracker(resolve_uri(None, out), "tests", f"pretrain {out}")
    given: dict[str, Any] = {"tracker": tracker, "fresh": True}
    pretrain_teacher(prepared, CONFIG, out, **given)
    (out / "notes.txt").write_text("mine")
    outcome = pretrain_teacher(prepared, replace(CONFIG, seed=1, epochs=2), out, **given)
    assert outcome is not None and outcome.config.seed == 1
    assert PretrainOutcome.load(out / OUTCOME) == outcome
    assert (out / "notes.txt").read_text() == "mine"
    (run,) = tracker._find("tags.overread_kind = 'pretraining'")
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "1")
    assert [point.step for point in tracker.client.get_metric_history(run.info.run_id, "loss")] == [1, 2]


def test_nothing_is_deleted_before_all_is_checked(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "dino"
    pretrain_teacher(prepared, CONFIG, out)
    teacher = (out / TEACHER).read_bytes()
    with pytest.raises(UserError, match="must exist"):
        pretrain_teacher(prepared, replace(CONFIG, start=str(tmp_path / "none.pth")), out, fresh=True)
    with pytest.raises(UserError, match="2 workers share 1"):
        pretrain_teacher(prepared, CONFIG, out, workers=2, fresh=True)
    assert (out / TEACHER).read_bytes() == teacher
    assert (out / OUTCOME).is_file()


def test_weights_that_have_seen_held_out_cases_are_refused_at_once(prepared: Prepared, tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "dino"
    pretrain_teacher(prepared, CONFIG, first, fold=1)
    config = replace(CONFIG, start=str(first / TEACHER))
    with pytest.raises(UserError, match="must not have seen cases that are held out here"):
        pretrain_teacher(prepared, config, out)
    assert not out.exists()
    assert pretrain_teacher(prepared, config, out, fold=1) is not None


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_of_another_training_is_left_alone(prepared: Prepared, tmp_path: Path, fresh: bool) -> None:
    out = tmp_path / "trial"
    TrialJob(trial_id="trial", number=0, folder=str(out), config=tiny_config()).save(out / JOB)
    before = (out / JOB).read_bytes()
    with pytest.raises(UserError, match="must be of a pretraining, but it is of another training"):
        pretrain_teacher(prepared, CONFIG, out, fresh=fresh)
    assert (out / JOB).read_bytes() == before
