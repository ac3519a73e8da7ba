"""A pretraining in a Ray Train group, from the driver: killed, resumed, tracked; then a DAI-Net on its cached maps."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from overread.architectures.vit import ViTOptions
from overread.cluster.job import JOB, STOP, request_stop
from overread.cluster.session import Resources
from overread.data.store import open_case
from overread.errors import UserError
from overread.records import EpochReport, Prepared
from overread.search import pretraining
from overread.search.pretraining import pretrain_teacher
from overread.search.single import train_one
from overread.search.teachers import with_teacher
from overread.testing.tiny import tiny_config, tiny_prepared
from overread.tracking.pretraining import PretrainTracker
from overread.tracking.store import resolve_uri
from overread.training.dino import PretrainConfig
from overread.training.multi_crop import MultiCrop
from overread.training.pretraining import CHECKPOINT, TEACHER

CONFIG = PretrainConfig(
    vit=ViTOptions(size="tiny", patch=8, depth=1),
    crops=MultiCrop(size=16, local_size=8, local_crops=1),
    outputs=16, hidden=8, bottleneck=4, batch_size=2, epochs=2, learning_rate=1e-3, warm_up_epochs=0,
    temperature_epochs=0, mixed_precision=False,
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Prepared:
    """Six cases in two folds: four train on fold 0, so that an epoch has two steps."""
    made = tiny_prepared(tmp_path / "images", cases=6, shape=(1, 16, 16))
    made.save(tmp_path / "images" / "manifest.json")
    return made


@pytest.mark.ray
def test_two_workers_pretrain_and_a_dai_net_takes_the_maps_once(
    cluster: Resources, images: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "overread")
    tracker = PretrainTracker(resolve_uri(None, tmp_path), "tests", "pretrain")
    out = tmp_path / "dino"
    outcome = pretrain_teacher(images, CONFIG, out, workers=2, tracker=tracker)
    assert outcome is not None
    assert (outcome.state, outcome.steps, outcome.workers, outcome.cases) == (
        "finished", 4, 2, ("case2", "case3", "case4", "case5"),
    )  # fmt: skip
    told = [record.message for record in caplog.records if record.message.startswith("epoch")]
    assert [line[:14] for line in told] == ["epoch 1 of 2: ", "epoch 2 of 2: "]
    (run,) = tracker._find("tags.state = 'finished'")
    assert len(tracker.client.get_metric_history(run.info.run_id, "teacher_entropy")) == 2
    assert len(tracker.client.list_artifacts(run.info.run_id, "attention")) == 2
    written = (out / TEACHER).stat().st_mtime_ns
    assert pretrain_teacher(images, CONFIG, out, workers=2) == outcome  # nothing is left to do
    assert (out / TEACHER).stat().st_mtime_ns == written

    config = with_teacher(tiny_config(architecture="dai_net", options={"width": 2}, patch_size=(16, 16)), out, images)
    config = replace(config, steps=2, epochs=1)
    train_one(images, config, tmp_path / "first")
    key = config.options["attention"]["teacher_sha256"]
    assert key == outcome.teacher_sha256
    stored = [next(open_case(images, case).folder.glob("extra_attention-*.npy")) for case in images.cases]
    times = [path.stat().st_mtime_ns for path in stored]
    train_one(images, replace(config, seed=1), tmp_path / "second")
    assert [path.stat().st_mtime_ns for path in stored] == times


@pytest.mark.ray
def test_a_pretraining_that_is_cut_short_ends_as_one_that_is_not(
    cluster: Resources, images: Prepared, tmp_path: Path
) -> None:
    whole = pretrain_teacher(images, CONFIG, tmp_path / "whole")
    request_stop(tmp_path / "cut", "the worker sees it at its first look, after one step")
    cut = pretrain_teacher(images, CONFIG, tmp_path / "cut")
    (tmp_path / "cut" / STOP).unlink()
    resumed = pretrain_teacher(images, CONFIG, tmp_path / "cut")
    assert whole is not None and cut is not None and resumed is not None
    assert (cut.state, cut.steps) == ("stopped", 1)
    assert (resumed.state, resumed.steps) == ("finished", 4)
    assert resumed.teacher_sha256 == whole.teacher_sha256 != cut.teacher_sha256
    assert [epoch.metrics for epoch in resumed.epochs] == [epoch.metrics for epoch in whole.epochs]


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "available", lambda: Resources(cpus=2, gpus=0.0, nodes=1, cpus_per_node=2))


def test_what_cannot_run_is_refused_before_anything_is_written(
    two_cpus: None, images: Prepared, tmp_path: Path
) -> None:
    out = tmp_path / "dino"
    with pytest.raises(UserError, match="3 workers share 2"):
        pretrain_teacher(images, CONFIG, out, workers=3)
    with pytest.raises(UserError, match="must find 1 GPU"):
        pretrain_teacher(images, CONFIG, out, gpus_per_worker=1.0)
    save_file({"blocks.0.norm1.weight": torch.zeros(192)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="they lack cls_token, pos_embed"):
        pretrain_teacher(images, replace(CONFIG, start=str(tmp_path / "other.safetensors")), out)
    assert pretrain_teacher(images, CONFIG, out, deadline=0.0) is None
    assert not out.exists()


def test_a_folder_keeps_its_settings(
    two_cpus: None, images: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dino"
    started: list[str] = []

    def stop(job: pretraining.PretrainJob, note: object) -> None:
        started.append(job.trial_id)
        (job.path / CHECKPOINT).mkdir()
        (job.path / CHECKPOINT / "checkpoint.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "run_pretraining", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain_teacher(images, CONFIG, out)
    assert (out / JOB).is_file()
    with pytest.raises(UserError, match="keep its settings, but seed changed"):
        pretrain_teacher(images, replace(CONFIG, seed=1), out)
    with pytest.raises(KeyboardInterrupt):
        pretrain_teacher(images, replace(CONFIG, seed=1), out, fresh=True)
    assert started == ["dino", "dino"]


def test_a_collapse_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "overread")
    metrics = {"loss": 1.0, "teacher_entropy": 2.772, "teacher_spread": 2.772}
    epoch = EpochReport(epoch=2, step=4, progress=100, seconds=1.0, metrics=metrics | {"collapsed": 1.0})
    pretraining.told(epoch, CONFIG)
    pretraining.told(replace(epoch, metrics=metrics | {"collapsed": 0.0}), CONFIG)
    said, quiet = caplog.records
    assert said.levelname == "WARNING"
    assert "same even output for all images (entropy 2.772 of 2.773 nats)" in said.message
    assert (quiet.levelname, quiet.message) == ("INFO", "epoch 2 of 2: loss 1.0000, teacher entropy 2.772")
