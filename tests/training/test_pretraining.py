"""A whole pretraining, its files, its resume, two workers, and a DAI-Net that starts from its teacher."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from overread.architectures.vit import ViTOptions
from overread.data.slices import Seen, Slices, pretraining_cases
from overread.data.store import open_case
from overread.errors import TrialFailure, UserError
from overread.records import AugmentConfig, EpochReport, Prepared
from overread.testing.tiny import tiny_config, tiny_prepared
from overread.training import pretraining
from overread.training.dino import PretrainConfig
from overread.training.inference import load_segmenter, predict_volume
from overread.training.multi_crop import MultiCrop
from overread.training.pretraining import (
    CHECKPOINT,
    TEACHER,
    PretrainOutcome,
    attention_options,
    check_pretraining,
    pretrain,
)
from overread.training.worker import WorkerContext, check_fits, train_trial

CONFIG = PretrainConfig(
    vit=ViTOptions(size="tiny", patch=8, depth=1),
    crops=MultiCrop(size=16, local_size=8, local_crops=1),
    outputs=16,
    hidden=8,
    bottleneck=4,
    batch_size=4,
    epochs=2,
    learning_rate=1e-3,
    warm_up_epochs=1,
    temperature_epochs=1,
    mixed_precision=False,
)

UNEVEN = replace(CONFIG, batch_size=3, head_batch_norm=True)


class Noise:
    """Eight random images of two sizes: two steps an epoch."""

    content = "noise"
    seen = Seen(dataset="noise", cases=("all",))

    def __init__(self, scale: float = 1.0, side: int = 12) -> None:
        self.scale, self.side = scale, side

    def __len__(self) -> int:
        return 8

    def load(self, indices: Sequence[int]) -> list[Tensor]:
        sides = [self.side + 4 * (index % 2) for index in indices]
        generators = [torch.Generator().manual_seed(index) for index in indices]
        return [self.scale * torch.randn(1, n, n, generator=g) for n, g in zip(sides, generators, strict=True)]


class KilledError(Exception):
    """Stands for the death of the process."""


def context_of(folder: Path, **more: Any) -> WorkerContext:
    return WorkerContext(trial_id="t", folder=folder, device=torch.device("cpu"), threads=1, **more)


def without_times(outcome: PretrainOutcome) -> dict[str, Any]:
    epochs = tuple(replace(report, seconds=0.0) for report in outcome.epochs)
    return replace(outcome, seconds=0.0, epochs=epochs).to_json()


def die_after_first(report: EpochReport, saved: Path | None) -> None:
    raise KilledError


def test_outcome_files_and_reports(tmp_path: Path) -> None:
    reports: list[tuple[int, Path | None, bool]] = []

    def note(report: EpochReport, saved: Path | None) -> None:
        reports.append((report.epoch, saved, (tmp_path / "pretrain.json").is_file()))

    outcome = pretrain(CONFIG, Noise(), context_of(tmp_path, report=note))
    assert (outcome.state, outcome.steps, outcome.images, outcome.workers) == ("finished", 4, 8, 1)
    # the last epoch is reported after the outcome is written
    assert reports == [(1, tmp_path / CHECKPOINT, False), (2, tmp_path / CHECKPOINT, True)]
    first, last = outcome.epochs
    assert (first.epoch, first.step, first.progress, last.step, last.progress) == (1, 2, 50, 4, 100)
    assert set(first.metrics) == {
        "loss",
        "teacher_entropy",
        "teacher_spread",
        "agreement",
        "collapsed",
        "learning_rate",
        "momentum",
        "teacher_temperature",
    }
    assert 0 < first.metrics["teacher_entropy"] <= first.metrics["teacher_spread"] <= np.log(16)
    assert set(outcome.versions) == {"overread", "torch", "numpy"}
    for epoch in (1, 2):
        assert (tmp_path / "attention" / f"epoch-000{epoch}.png").read_bytes().startswith(b"\x89PNG")
    teacher = load_file(tmp_path / TEACHER)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.bias"} <= set(
        teacher
    )
    assert outcome.teacher_sha256 == hashlib.sha256((tmp_path / TEACHER).read_bytes()).hexdigest()
    assert PretrainOutcome.load(tmp_path / "pretrain.json") == outcome


def test_a_resumed_pretraining_is_bit_equal_to_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = pretrain(CONFIG, Noise(), context_of(tmp_path / "whole"))
    with pytest.raises(KilledError):
        pretrain(CONFIG, Noise(), context_of(tmp_path / "two", report=die_after_first))
    assert not (tmp_path / "two" / TEACHER).exists()
    resumed = pretrain(CONFIG, Noise(), context_of(tmp_path / "two", resume=tmp_path / "two" / CHECKPOINT))
    assert without_times(resumed) == without_times(whole)  # with the hash of the teacher's file
    states = [torch.load(tmp_path / run / CHECKPOINT / "checkpoint.pt", weights_only=True) for run in ("whole", "two")]
    for part in ("student", "teacher"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    assert torch.equal(states[0]["centre"], states[1]["centre"])


def stopping_after(checks: int) -> Callable[[], bool]:
    left = iter([False] * (checks - 1))
    return lambda: next(left, True)


def test_time_may_be_up_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "CHECK_SECONDS", 0.0)  # every step takes longer
    reports: list[int] = []

    def note(report: EpochReport, saved: Path | None) -> None:
        reports.append(report.epoch)

    whole = pretrain(CONFIG, Noise(), context_of(tmp_path / "whole"))
    stopped = pretrain(CONFIG, Noise(), context_of(tmp_path / "two", report=note, should_stop=stopping_after(3)))
    assert (stopped.state, stopped.steps, len(stopped.epochs), reports) == ("stopped", 3, 1, [1])
    assert (tmp_path / "two" / TEACHER).is_file()
    resumed = pretrain(CONFIG, Noise(), context_of(tmp_path / "two", resume=tmp_path / "two" / CHECKPOINT, report=note))
    assert reports == [1, 2]
    assert resumed.teacher_sha256 == whole.teacher_sha256
    assert resumed.epochs[1].metrics == pytest.approx(whole.epochs[1].metrics)
    again = pretrain(CONFIG, Noise(), context_of(tmp_path / "two", resume=tmp_path / "two" / CHECKPOINT, report=note))
    assert without_times(again) == without_times(resumed)  # nothing was left: the last epoch is reported again
    assert reports == [1, 2, 2]


def test_a_checkpoint_of_another_config_or_other_images_is_refused(tmp_path: Path) -> None:
    pretrain(CONFIG, Noise(), context_of(tmp_path))
    resume = context_of(tmp_path, resume=tmp_path / CHECKPOINT)
    with pytest.raises(UserError, match="of another: use a new folder"):
        pretrain(replace(CONFIG, seed=1), Noise(), resume)
    others = Noise()
    others.content = "others"
    with pytest.raises(UserError, match="must be of these images"):
        pretrain(CONFIG, others, resume)
    with pytest.raises(UserError, match="must exist"):
        pretrain(CONFIG, Noise(), context_of(tmp_path, resume=tmp_path / "none"))


def test_it_starts_from_a_weights_file_and_refuses_one_of_another_vit(tmp_path: Path) -> None:
    pretrain(CONFIG, Noise(), context_of(tmp_path / "first"))
    weights = load_file(tmp_path / "first" / TEACHER)
    torch.save({"teacher": {f"backbone.{name}": value for name, value in weights.items()}}, tmp_path / "dino.pth")
    still = replace(CONFIG, start=str(tmp_path / "dino.pth"), momentum=1.0, epochs=1)
    pretrain(still, Noise(), context_of(tmp_path / "second"))
    for name, value in load_file(tmp_path / "second" / TEACHER).items():
        assert torch.equal(value, weights[name])  # a teacher that does not follow keeps them
    deeper = replace(still, vit=ViTOptions(size="tiny", patch=8, depth=2))
    with pytest.raises(UserError, match=r"they lack blocks\.1\.norm1\.weight"):
        pretrain(deeper, Noise(), context_of(tmp_path / "third"))


def test_what_cannot_be_trained_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrialFailure, match="nan_loss"):
        pretrain(CONFIG, Noise(scale=float("nan")), context_of(tmp_path / "nan"))
    with pytest.raises(UserError, match="at least one patch, 8 pixels"):
        pretrain(CONFIG, Noise(side=4), context_of(tmp_path / "small"))
    with pytest.raises(UserError, match="number of workers, but got 4 for 5"):
        pretrain(CONFIG, Noise(), context_of(tmp_path / "many", world_size=5))
    assert not caplog.records
    hot = replace(CONFIG, first_teacher_temperature=100.0, teacher_temperature=100.0)
    outcome = pretrain(hot, Noise(), context_of(tmp_path / "hot"))
    assert [report.metrics["collapsed"] for report in outcome.epochs] == [0.0, 1.0]  # not before the rate has risen
    assert "same even output for all images" in outcome.warning
    assert caplog.records[0].message == f"epoch 2: {outcome.warning}"
    attention_options(tmp_path / "hot")  # said again to who takes its maps
    assert caplog.records[-1].message == f"teacher {tmp_path / 'hot'}: {outcome.warning}"


def test_brightness_and_contrast_of_the_slices_do_not_matter(tmp_path: Path) -> None:
    once = replace(CONFIG, epochs=1)
    plain = pretrain(once, Noise(), context_of(tmp_path / "plain"))
    doubled = pretrain(once, Noise(scale=2.0), context_of(tmp_path / "doubled"))
    assert doubled.teacher_sha256 == plain.teacher_sha256


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    wrap = nn.parallel.DistributedDataParallel
    outcome = pretrain(UNEVEN, Noise(), context_of(folder, rank=rank, world_size=2, wrap=wrap))
    outcome.save(folder / f"rank{rank}.json")
    dist.destroy_process_group()


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=process, args=(rank, tmp_path)) for rank in (0, 1)]
    for started in processes:
        started.start()
    one = pretrain(UNEVEN, Noise(), context_of(tmp_path / "one"))  # two images and one
    for started in processes:
        started.join(120)
    assert [started.exitcode for started in processes] == [0, 0]
    two, other = (PretrainOutcome.load(tmp_path / f"rank{rank}.json") for rank in (0, 1))
    assert two == other
    assert two.workers == 2
    for mine, theirs in zip(two.epochs, one.epochs, strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, abs=1e-3)
    alone = load_file(tmp_path / "one" / TEACHER)
    for name, value in load_file(tmp_path / TEACHER).items():
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=1e-3)


@pytest.fixture
def images(tmp_path: Path) -> Prepared:
    return tiny_prepared(tmp_path / "images", cases=6, shape=(1, 16, 16))


def test_a_dai_net_is_trained_on_the_maps_of_a_pretrained_teacher(images: Prepared, tmp_path: Path) -> None:
    pretrain(CONFIG, Slices(images, pretraining_cases(images, 0)), context_of(tmp_path / "dino"))
    attention = attention_options(tmp_path / "dino")
    assert (attention.vit, attention.image_size) == (CONFIG.vit, 16)
    config = tiny_config(
        architecture="dai_net",
        options={"width": 2, "attention": attention.to_json()},
        patch_size=(16, 16),
        steps=4,
        epochs=2,
        augment=AugmentConfig(),
    )
    stored = [open_case(images, case).folder / f"extra_attention-{attention.key}.npy" for case in images.cases]
    hashes: list[list[str]] = []

    def note(report: EpochReport, saved: Path | None) -> None:
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in stored])

    outcome = train_trial(config, images, context_of(tmp_path / "trial", report=note))
    assert outcome.state == "finished"
    assert hashes[0] == hashes[1]  # maps stay what they are over the epochs
    assert len(set(hashes[0])) == 6
    changes = [path.stat().st_mtime_ns for path in stored]
    train_trial(replace(config, seed=1), images, context_of(tmp_path / "other"))
    assert [path.stat().st_mtime_ns for path in stored] == changes  # another trial does not compute them again

    teacher = load_file(tmp_path / "dino" / TEACHER)
    (tmp_path / "dino" / TEACHER).unlink()
    member = load_segmenter(config, tmp_path / "trial" / "weights.safetensors", "cpu")  # carries its teacher
    kept = member.state_dict()["attention.vit.encoder.blocks.0.attention.qkv.weight"]
    assert torch.equal(kept, teacher["blocks.0.attn.qkv.weight"])
    arrays = open_case(images, "case0")
    computed = predict_volume(member, np.array(arrays.image), config, None, "cpu")
    extras = {"attention": torch.from_numpy(np.array(arrays.read_extra(f"attention-{attention.key}")))}
    read = predict_volume(member, np.array(arrays.image), config, None, "cpu", extras=extras)
    np.testing.assert_allclose(computed, read, atol=1e-5)
    with pytest.raises(UserError, match="must be readable"):
        train_trial(config, images, context_of(tmp_path / "third"))


def test_what_cannot_be_pretrained_is_said_before_it_starts(images: Prepared, tmp_path: Path) -> None:
    cases = pretraining_cases(images, 0)
    check_pretraining(CONFIG, images, cases)
    large = replace(CONFIG, vit=ViTOptions(size="tiny", patch=32, depth=1), crops=MultiCrop(size=32, local_size=32))
    with pytest.raises(UserError, match=r"one patch, 32 pixels.*but 4 of 4.*case2: \(16, 16\)"):
        check_pretraining(large, images, cases)
    torch.save({"head.weight": torch.zeros(1), "blocks.0.attn.qkv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"they lack cls_token.*\n.*in other shapes blocks\.0\.attn\.qkv\.weight \(1,\)"
    ):
        check_pretraining(replace(CONFIG, start=str(tmp_path / "other.pth")), images, cases)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"x": Evil(tmp_path / "ran")}, protocol=2))
    with pytest.raises(UserError, match="the file is refused"):
        check_pretraining(replace(CONFIG, start=str(tmp_path / "evil.pth")), images, cases)
    assert not (tmp_path / "ran").exists()


class Evil:
    """Would create a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_teacher_must_not_have_seen_what_is_held_out(images: Prepared, tmp_path: Path) -> None:
    outcome = pretrain(
        replace(CONFIG, epochs=1), Slices(images, pretraining_cases(images, 0)), context_of(tmp_path / "dino")
    )
    assert (outcome.dataset, outcome.cases) == ("tiny", ("case2", "case3", "case4", "case5"))
    assert attention_options(tmp_path / "dino", images, 0) == attention_options(tmp_path / "dino")
    with pytest.raises(UserError, match=r"trained on 4 of them \(such as case2\)"):
        attention_options(tmp_path / "dino", images, 1)
    folds = (images.splits.folds[0], ("case2", "case3", "case4"))
    locked = replace(images, splits=replace(images.splits, locked=("case5",), folds=folds))
    with pytest.raises(UserError, match=r"trained on 1 of them \(such as case5\)"):
        attention_options(tmp_path / "dino", locked, 0)
    with pytest.raises(UserError, match=r"trained on 1 of them \(such as case5\)"):  # the same data, renamed
        attention_options(tmp_path / "dino", replace(locked, dataset="copy"), 0)


def test_weights_that_a_pretraining_starts_from_tell_what_they_have_seen(images: Prepared, tmp_path: Path) -> None:
    one = replace(CONFIG, epochs=1)
    pretrain(one, Slices(images, pretraining_cases(images, 1)), context_of(tmp_path / "first"))
    start = replace(one, epochs=2, start=str(tmp_path / "first" / TEACHER))
    slices = Slices(images, pretraining_cases(images, 0))
    with pytest.raises(KilledError):
        pretrain(start, slices, context_of(tmp_path / "second", report=die_after_first))
    shutil.rmtree(tmp_path / "first")  # read when the weights were: a resumed pretraining needs neither
    outcome = pretrain(start, slices, context_of(tmp_path / "second", resume=tmp_path / "second" / CHECKPOINT))
    assert [seen.cases for seen in outcome.earlier] == [("case0", "case1")]
    assert outcome.cases == ("case2", "case3", "case4", "case5")
    with pytest.raises(UserError, match=r"trained on 2 of them \(such as case0\)"):
        attention_options(tmp_path / "second", images, 0)
    pretrain(
        replace(one, start=str(tmp_path / "second" / TEACHER)), slices, context_of(tmp_path / "third")
    )  # what is told is passed on
    assert [len(seen.cases) for seen in PretrainOutcome.load(tmp_path / "third" / "pretrain.json").earlier] == [4, 2]


def test_a_config_with_its_own_teacher_is_checked_too(images: Prepared, tmp_path: Path) -> None:
    pretrain(replace(CONFIG, epochs=1), Slices(images, pretraining_cases(images, 1)), context_of(tmp_path / "dino"))
    options = {"width": 2, "attention": attention_options(tmp_path / "dino").to_json()}
    config = tiny_config(architecture="dai_net", options=options, patch_size=(16, 16))
    with pytest.raises(UserError, match=r"trained on 2 of them \(such as case0\)"):
        check_fits(config, images)
    check_fits(replace(config, fold=1), images)
