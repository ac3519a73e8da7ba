"""Batches: stateless, shared out exactly, with foreground, in 2-D and 3-D."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from overread.data import batches
from overread.data.batches import BatchSource, crop_or_pad, default_patch_size
from overread.data.store import open_case
from overread.errors import UserError
from overread.records import Extra, Needs, Prepared, PreparedCase, PrepareSettings, Preprocessing, Splits, TrialConfig


def _prepared(
    root: Path, shapes: list[tuple[int, int, int]], annotators: list[tuple[str, ...]] | None = None
) -> Prepared:
    """Write cases whose voxel (d, h, w) of case i is 1000 i + 100 d + 10 h + w; only voxel (1, 2, 3) is foreground."""
    cases = []
    for index, shape in enumerate(shapes):
        names = annotators[index] if annotators else ("reference",)
        folder = root / "cases" / f"{index:05d}"
        folder.mkdir(parents=True)
        d, h, w = np.indices(shape)
        np.save(folder / "image.npy", (1000 * index + 100 * d + 10 * h + w + 1).astype(np.float32)[None])
        label = ((d == min(1, shape[0] - 1)) & (h == 2) & (w == 3)).astype(np.uint8)
        np.save(folder / "labels.npy", np.stack([label] * len(names)))
        cases.append(
            PreparedCase(
                index=index,
                id=f"c{index}",
                group=f"c{index}",
                native_shape=shape,
                shape=shape,
                spacing=None,
                annotators=names,
                foreground=(1,),
            )
        )
    return Prepared(
        root=str(root),
        dataset="d",
        label_names=("background", "organ"),
        label_values=(0, 1),
        settings=PrepareSettings(),
        preprocessing=Preprocessing(channels=("x",), ct=(False,), spatial_dims=3, slice_axis=0, max_side=128),
        cases=tuple(cases),
        splits=Splits(locked=(), calibration=(), folds=()),
        content="",
    )


def _config(patch: tuple[int, ...], batch: int = 4, **changes: Any) -> TrialConfig:
    config = TrialConfig(
        architecture="unet",
        options={},
        in_channels=1,
        classes=2,
        spatial_dims=len(patch),
        patch_size=patch,
        batch_size=batch,
        steps=10,
    )
    return replace(config, **changes)


def _ids(prepared: Prepared) -> list[str]:
    return [case.id for case in prepared.cases]


def test_slices_of_volumes_half_of_them_with_foreground(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(6, 4, 5)] * 3)
    source = BatchSource(prepared, _ids(prepared), _config((4, 5), batch=8), Needs())
    counts = []
    for batch in source.steps(20, 0):
        assert batch.images.shape == (8, 1, 4, 5) and batch.labels.shape == (8, 1, 4, 5)
        slices = (batch.images[:, 0, 0, 0].long() - 1) % 1000 // 100
        has = batch.labels.amax((1, 2, 3)) > 0
        torch.testing.assert_close(has, slices == 1)
        counts.append(int(has.sum()))
    assert min(counts) >= 4  # the half that is drawn so
    assert 4.2 < np.mean(counts) < 5.5  # of the other half one sixth by chance: 4.67


def test_each_pass_shows_every_case_once_and_other_cases_never(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(1, 4, 4)] * 9)
    source = BatchSource(prepared, ["c1", "c2", "c4", "c5", "c7", "c8"], _config((4, 4), batch=4), Needs())
    seen = [int(v) // 1000 for batch in source.steps(6, 0) for v in batch.images[:, 0, 0, 0]]
    for turn in range(4):
        assert sorted(seen[6 * turn : 6 * turn + 6]) == [1, 2, 4, 5, 7, 8]
    assert seen[:6] != seen[6:12] or seen[6:12] != seen[12:18]


@pytest.mark.parametrize("patch", [(6, 6), (4, 6, 6)])
def test_a_resumed_source_gives_the_same_batches(tmp_path: Path, patch: tuple[int, ...]) -> None:
    prepared = _prepared(tmp_path, [(5, 8, 9), (3, 4, 12), (6, 7, 7)])
    whole = list(BatchSource(prepared, _ids(prepared), _config(patch), Needs(pairs=True)).steps(6, 0))
    resumed = list(BatchSource(prepared, _ids(prepared), _config(patch), Needs(pairs=True)).steps(2, 4))
    for early, late in zip(whole[4:], resumed, strict=True):
        assert torch.equal(early.images, late.images) and torch.equal(early.labels, late.labels)
        assert early.partner is not None and late.partner is not None
        assert torch.equal(early.partner.images, late.partner.images)
        assert not torch.equal(early.images, early.partner.images)
    other = next(BatchSource(prepared, _ids(prepared), _config(patch, seed=1), Needs()).steps(1, 0))
    assert not torch.equal(other.images, whole[0].images)


@pytest.mark.parametrize("world", [2, 3])
def test_workers_share_the_batch_of_one_worker(tmp_path: Path, world: int) -> None:
    prepared = _prepared(tmp_path, [(5, 8, 9), (3, 4, 12), (6, 7, 7)])
    config = _config((3, 6, 6), batch=5)
    whole = BatchSource(prepared, _ids(prepared), config, Needs()).batch(3)
    for rank in range(world):
        share = BatchSource(prepared, _ids(prepared), config, Needs(), rank, world).batch(3)
        assert torch.equal(share.images, whole.images[rank::world])
        assert torch.equal(share.labels, whole.labels[rank::world])
    with pytest.raises(UserError, match="at least the number of workers, but got 5 for 6"):
        BatchSource(prepared, _ids(prepared), config, Needs(), 0, 6)


def test_patches_half_of_them_hold_foreground(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(12, 20, 20)] * 2)
    source = BatchSource(prepared, _ids(prepared), _config((4, 4, 4), batch=6), Needs())
    held = [int((batch.labels.amax((1, 2, 3, 4)) > 0).sum()) for batch in source.steps(10, 0)]
    assert min(held) >= 3
    assert np.mean(held) < 4.5
    corners = {tuple(v.tolist()) for batch in source.steps(10, 0) for v in batch.images[:, 0, 0, 0, :1]}
    assert len(corners) > 20


def test_small_images_are_padded_with_zeros_and_labels_move_along(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(2, 4, 5)])
    source = BatchSource(prepared, ["c0"], _config((8, 8)), Needs())
    places = set()
    for batch in source.steps(10, 0):
        for image, label in zip(batch.images[:, 0], batch.labels[:, 0], strict=True):
            assert int((image > 0).sum()) == 20
            rows, columns = torch.nonzero(image, as_tuple=True)
            places.add((int(rows.min()), int(columns.min())))
            if label.any():
                (row, column) = torch.nonzero(label)[0].tolist()
                assert image[row, column] == 100 + 20 + 3 + 1
    assert len(places) > 5


def test_annotators_keep_their_place_and_absent_ones_are_masked(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(1, 4, 4)] * 2, [("ann", "cleo"), ("ben",)])
    source = BatchSource(prepared, _ids(prepared), _config((4, 4), batch=2), Needs(annotators=True))
    assert source.annotators == ("ann", "ben", "cleo")
    batch = source.batch(0)
    for image, valid, label in zip(batch.images, batch.valid, batch.labels, strict=True):
        drew = [True, False, True] if image.max() < 1000 else [False, True, False]
        assert valid.tolist() == drew
        assert (label.amax((1, 2)) > 0).tolist() == drew
    soft = batch.soft_targets(2)
    assert torch.equal(soft.sum(1), torch.ones(2, 4, 4)) and torch.equal(soft[:, 1, 2, 3], torch.ones(2))


@pytest.mark.parametrize(
    ("drew", "first"),
    [((True, True), 1), ((False, True), 2), ((False, False), 1)],  # of bob and cleo; ann did not annotate
)
def test_the_first_annotator_who_drew_something_can_be_the_only_one(
    tmp_path: Path, drew: tuple[bool, bool], first: int
) -> None:
    prepared = _prepared(tmp_path, [(1, 4, 4)] * 2, [("ann",), ("bob", "cleo")])
    marked = open_case(prepared, "c1").folder / "labels.npy"
    labels = np.load(marked)
    labels[1] *= 2  # cleo says another class
    np.save(marked, labels * np.array(drew, np.uint8)[:, None, None, None])
    config = replace(_config((4, 4), batch=1), classes=3)
    batch = BatchSource(prepared, ["c1"], replace(config, annotations="first"), Needs()).batch(0)
    assert batch.valid.tolist() == [[place == first for place in range(3)]]
    soft, marks = batch.soft_targets(3)[0], drew[first - 1]
    assert soft[:, 2, 3].tolist() == [not marks, marks and first == 1, marks and first == 2]
    whole = BatchSource(prepared, ["c1"], config, Needs()).batch(0)
    assert whole.valid.tolist() == [[False, True, True]] and torch.equal(whole.labels, batch.labels)


def test_extra_arrays_are_cut_like_the_image(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(6, 9, 9)])
    arrays = open_case(prepared, "c0")
    arrays.write_extra("twice-v1", 2 * np.asarray(arrays.image))
    batch = BatchSource(prepared, ["c0"], _config((4, 4, 4)), Needs(extras={"twice": Extra(1, "v1")})).batch(0)
    assert torch.equal(batch.extras["twice"], 2 * batch.images)
    with pytest.raises(UserError, match=r"extra_twice-v2\.npy must exist"):
        BatchSource(prepared, ["c0"], _config((4, 4, 4)), Needs(extras={"twice": Extra(1, "v2")})).batch(0)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(1, 4, 4)])
    with pytest.raises(UserError, match="at least one case"):
        BatchSource(prepared, [], _config((4, 4)), Needs())
    with pytest.raises(UserError, match="'other' must be in data set"):
        BatchSource(prepared, ["other"], _config((4, 4)), Needs())
    with pytest.raises(UserError, match=r"instance ids, but 1 \(such as 'c0'\) have none"):
        BatchSource(prepared, ["c0"], _config((4, 4)), Needs(instances=True))


def test_pairs_of_one_case_are_refused(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(1, 8, 8)])
    with pytest.raises(UserError, match="at least two training cases"):
        BatchSource(prepared, _ids(prepared)[:1], _config((8, 8)), Needs(pairs=True))


def test_instances_are_cut_like_the_labels(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(3, 6, 6)])
    prepared = replace(prepared, cases=(replace(prepared.cases[0], instances=True),))
    labels = np.load(tmp_path / "cases" / "00000" / "labels.npy")
    np.save(tmp_path / "cases" / "00000" / "instances.npy", labels[0].astype(np.int32) * 300)
    for patch in ((4, 4), (2, 4, 4)):
        batch = BatchSource(prepared, ["c0"], _config(patch), Needs(instances=True)).batch(0)
        assert batch.instances is not None and batch.instances.dtype == torch.int32
        assert batch.instances.max() == 300
        assert torch.equal(batch.instances, batch.labels[:, 0].int() * 300)
    assert BatchSource(prepared, ["c0"], _config((4, 4)), Needs()).batch(0).instances is None


def test_crop_or_pad_by_hand() -> None:
    array = np.arange(4).reshape(1, 1, 1, 4)
    assert crop_or_pad(array, (0, 0, 1), (1, 1, 2)).ravel().tolist() == [1, 2]
    assert crop_or_pad(array, (0, 0, -1), (1, 1, 6)).ravel().tolist() == [0, 0, 1, 2, 3, 0]
    assert crop_or_pad(array, (0, -1, 2), (1, 2, 3)).tolist() == [[[[0, 0, 0], [2, 3, 0]]]]


def test_padding_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared = _prepared(tmp_path, [(1, 50, 36)])
    batches._tell_padding.cache_clear()
    with caplog.at_level("INFO", logger="overread"):
        assert default_patch_size(prepared, 2, 1) == (50, 36)
        assert caplog.messages == []
        assert default_patch_size(prepared, 2, 64) == default_patch_size(prepared, 2, 64) == (64, 64)
    assert caplog.messages == [
        "images of up to 50 x 36 are padded to multiples of 64, which the network needs; readings are cut back"
    ]


def test_default_patch_sizes(tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [(10, 108, 128), (12, 120, 90)])
    assert default_patch_size(prepared, 2, 16) == (128, 128)
    assert default_patch_size(prepared, 2, 1) == (120, 128)
    # (16, 128, 128) -> (16, 112, 128) -> (16, 112, 112) = 200704 -> (16, 96, 112): at most 196608 voxels
    assert default_patch_size(prepared, 3, 16) == (16, 96, 112)
