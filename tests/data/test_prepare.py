"""`prepare_dataset` on phantoms and on data sets made by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from overread.data import prepare
from overread.data.images import read_image
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import annotated, find_prepared, prepare_dataset, serial_map, truth_of
from overread.data.store import load_prepared, open_case
from overread.errors import UserError
from overread.records import PrepareSettings


def _png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def _pictures(root: Path, count: int = 12) -> Path:
    """Write a folder data set of unlike noise images with a square each."""
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 20))
    mask[4:12, 5:15] = 255
    for i in range(count):
        _png(root / "images" / f"c{i:02d}.png", rng.integers(0, 255, (24, 20)))
        _png(root / "masks" / f"c{i:02d}.png", mask)
    return root


def _forbidden(*_: Any) -> list[Any]:
    raise AssertionError("nothing must be mapped")


def test_arrays_of_a_volume_phantom(tmp_path: Path) -> None:
    settings = PhantomSettings(kind="3d", cases=8, size=24, depth=6, channels=2)
    root = write_phantom(tmp_path / "phantom", settings)
    prepared = prepare_dataset(root, PrepareSettings(folds=2, max_side=16), tmp_path / "cache")
    assert prepared.label_names == ("background", "organ1", "organ2")
    assert prepared.preprocessing.slice_axis == 2
    case = prepared.case("phantom_003")
    assert case.native_shape == (24, 24, 6)
    assert case.shape == (6, 16, 16)
    assert case.spacing == (1.0, 1.0, 4.0)
    assert case.foreground == (1, 2)
    arrays = open_case(prepared, case)
    assert arrays.image.shape == (2, 6, 16, 16) and arrays.image.dtype == np.float32
    assert arrays.labels.shape == (1, 6, 16, 16) and arrays.labels.dtype == np.uint8
    assert arrays.truth.shape == (24, 24, 6)
    assert set(np.unique(arrays.truth)) == {0, 1, 2}
    roles = (prepared.splits.locked, prepared.splits.calibration, *prepared.splits.folds)
    assert sorted(name for role in roles for name in role) == [case.id for case in prepared.cases]


def test_a_second_run_takes_the_cache_and_settings_make_another(tmp_path: Path) -> None:
    root, cache = _pictures(tmp_path / "data"), tmp_path / "cache"
    assert find_prepared(root, PrepareSettings(), cache) is None
    first = prepare_dataset(root, PrepareSettings(), cache)
    assert prepare_dataset(root, PrepareSettings(), cache, _forbidden) == first
    assert find_prepared(root, PrepareSettings(), cache) == first
    other = prepare_dataset(root, PrepareSettings(max_side=8), cache)
    assert other.root != first.root and other.content != first.content
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        ["hashes.json", Path(first.root).name, Path(other.root).name]
    )
    moved = Path(first.root).rename(tmp_path / "moved")
    assert open_case(load_prepared(moved), "c00").truth.shape == (24, 20)


def test_a_half_written_folder_is_replaced(tmp_path: Path) -> None:
    root, cache = _pictures(tmp_path / "data"), tmp_path / "cache"
    first = prepare_dataset(root, PrepareSettings(), cache)
    (Path(first.root) / "manifest.json").unlink()
    (Path(first.root) / "cases" / "00000" / "image.npy").unlink()
    assert prepare_dataset(root, PrepareSettings(), cache) == first
    assert open_case(first, "c00").image.shape == (1, 1, 24, 20)


def test_all_problems_are_reported_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    root, cache = _pictures(tmp_path / "data", count=6), tmp_path / "cache"
    (root / "masks" / "c00.png").unlink()
    _png(root / "masks" / "c01.png", np.zeros((9, 9)))
    (root / "images" / "c02.png").write_bytes(b"no picture")
    with pytest.raises(UserError) as wrong:
        prepare_dataset(root, PrepareSettings(reference="ann"), cache)
    text = str(wrong.value)
    for found in ("case c00", "case c01", "case c02", "reference annotator must be one of", "at least 7 groups"):
        assert found in text
    assert not [path for path in cache.glob("*") if path.name != "hashes.json"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    root, cache = _pictures(tmp_path / "data"), tmp_path / "cache"

    def broken(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
        results = serial_map(function, items, title)
        if title.startswith("Preparing"):
            raise OSError("disk full")
        return results

    with pytest.raises(OSError, match="disk full"):
        prepare_dataset(root, PrepareSettings(), cache, broken)
    assert [path.name for path in cache.iterdir()] == ["hashes.json"]


def test_near_duplicates_share_a_group_and_a_side(tmp_path: Path) -> None:
    root = _pictures(tmp_path / "data", count=14)
    (root / "images" / "c09.png").write_bytes((root / "images" / "c02.png").read_bytes())
    prepared = prepare_dataset(root, PrepareSettings(), tmp_path / "cache")
    assert prepared.near_duplicates == (("c02", "c09"),)
    assert prepared.case("c09").group == prepared.case("c02").group == "c02"
    roles = (prepared.splits.locked, prepared.splits.calibration, *prepared.splits.folds)
    assert sum({"c02", "c09"} <= set(role) for role in roles) == 1


def test_copies_of_one_patient_are_not_reported_as_duplicates(tmp_path: Path) -> None:
    root = _pictures(tmp_path / "data", count=14)
    (root / "images" / "c09.png").write_bytes((root / "images" / "c02.png").read_bytes())
    groups = [f"c{i:02d},{'same' if i in (2, 9) else i}" for i in range(14)]
    (root / "groups.csv").write_text("\n".join(["case,group", *groups]))
    assert prepare_dataset(root, PrepareSettings(), tmp_path / "cache").near_duplicates == ()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder must exist"):
        prepare_dataset(tmp_path / "none", PrepareSettings(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_several_annotators(tmp_path: Path) -> None:
    settings = PhantomSettings(cases=8, size=24, annotators=3, classes=2)
    root = write_phantom(tmp_path / "phantom", settings)
    (root / "masks" / "annotator2" / "phantom_001.png").unlink()
    _png(root / "masks" / "annotator3" / "phantom_002.png", np.zeros((24, 24)))
    cache = tmp_path / "cache"
    plain = prepare_dataset(root, PrepareSettings(folds=2), cache)
    assert plain.case("phantom_000").annotators == ("annotator1", "annotator2", "annotator3")
    assert plain.case("phantom_001").annotators == ("annotator1", "annotator3")
    assert open_case(plain, "phantom_001").labels.shape == (2, 1, 24, 24)
    labels = open_case(plain, "phantom_000").labels[:, 0]
    np.testing.assert_array_equal(open_case(plain, "phantom_000").truth, labels.sum(0) >= 2)
    assert plain.case("phantom_002").annotators == ("annotator1", "annotator2", "annotator3")
    ignoring = prepare_dataset(root, PrepareSettings(folds=2, empty_annotation="ignore"), cache)
    assert ignoring.case("phantom_002").annotators == ("annotator1", "annotator2")
    chosen = prepare_dataset(root, PrepareSettings(folds=2, reference="annotator3"), cache)
    np.testing.assert_array_equal(open_case(chosen, "phantom_000").truth, labels[2])
    assert chosen.case("phantom_002").foreground == ()
    with pytest.raises(UserError, match="case phantom_001: must have a label by the reference annotator 'annotator2'"):
        prepare_dataset(root, PrepareSettings(folds=2, reference="annotator2"), cache)


def test_truth_is_the_majority_and_ties_go_to_the_lower_class() -> None:
    labels = {"a": np.uint8([0, 1, 2, 1]), "b": np.uint8([0, 1, 2, 2]), "c": np.uint8([1, 0, 2, 0])}
    assert truth_of(labels, None, 3).tolist() == [0, 1, 2, 0]
    assert truth_of(labels, "c", 3).tolist() == [1, 0, 2, 0]
    assert truth_of({"a": np.uint8([0, 2]), "b": np.uint8([1, 2])}, None, 3).tolist() == [0, 2]


def test_empty_annotations() -> None:
    labels = {"a": np.uint8([0, 1]), "b": np.uint8([0, 0])}
    ignore = PrepareSettings(empty_annotation="ignore")
    assert list(annotated(labels, PrepareSettings())) == ["a", "b"]
    assert list(annotated(labels, ignore)) == ["a"]
    assert list(annotated({"b": labels["b"]}, ignore)) == ["b"]  # all empty: they agree on background
    assert list(annotated(labels, PrepareSettings(empty_annotation="ignore", reference="b"))) == ["a", "b"]


def test_mapped_functions_can_travel_to_other_processes(tmp_path: Path) -> None:
    import pickle

    root = _pictures(tmp_path / "data")
    sizes = []

    def travelling(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
        sizes.extend(len(pickle.dumps(item)) for item in items)
        return [pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(item))) for item in items]  # noqa: S301

    prepare_dataset(root, PrepareSettings(), tmp_path / "cache", travelling)
    assert len(sizes) == 24 and max(sizes) < 4000


def test_a_faster_process_wins(tmp_path: Path) -> None:
    partial, folder = tmp_path / "partial", tmp_path / "final"
    partial.mkdir()
    folder.mkdir()
    (folder / "manifest.json").write_text("theirs")
    prepare._publish(partial, folder)
    assert (folder / "manifest.json").read_text() == "theirs"


def test_too_few_groups_because_of_duplicates_says_so(tmp_path: Path) -> None:
    root = _pictures(tmp_path / "data", count=7)
    (root / "images" / "c01.png").write_bytes((root / "images" / "c02.png").read_bytes())
    with pytest.raises(UserError, match=r"has 6: .* 1 pairs of near-duplicate images"):
        prepare_dataset(root, PrepareSettings(), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["hashes.json"]


def test_image_and_labels_of_several_annotators_are_kept_as_they_came(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "phantom", PhantomSettings(cases=8, size=24, annotators=3, classes=2))
    prepared = prepare_dataset(root, PrepareSettings(folds=2, max_side=16), tmp_path / "cache")
    arrays = open_case(prepared, "phantom_000")
    assert arrays.labels.shape == (3, 1, 16, 16)
    assert arrays.annotations.shape == (3, 24, 24)
    picture = read_image([next((root / "images").glob("phantom_000*"))]).array
    assert arrays.native is not None and arrays.native.dtype == picture.dtype
    np.testing.assert_array_equal(arrays.native, picture)
    np.testing.assert_array_equal(arrays.truth, arrays.annotations.sum(0) >= 2)
    single = prepare_dataset(_pictures(tmp_path / "data"), PrepareSettings(), tmp_path / "cache")
    np.testing.assert_array_equal(open_case(single, "c00").annotations[0], open_case(single, "c00").truth)
    assert open_case(single, "c00").native is None


def test_instance_ids_are_prepared_beside_the_labels(tmp_path: Path) -> None:
    root = _pictures(tmp_path / "data")
    ids = np.zeros((24, 20), np.uint16)
    ids[4:12, 5:15] = 700
    (root / "instances").mkdir()
    Image.fromarray(ids).save(root / "instances" / "c03.png")
    prepared = prepare_dataset(root, PrepareSettings(max_side=12), tmp_path / "cache")
    assert [case.id for case in prepared.cases if case.instances] == ["c03"]
    arrays = open_case(prepared, "c03")
    np.testing.assert_array_equal(arrays.native_instances, ids)
    assert arrays.instances.shape == (1, 12, 10)
    np.testing.assert_array_equal(arrays.instances, arrays.labels[0].astype(np.int32) * 700)


def test_unlabelled_images_are_prepared_when_asked_for_and_join_the_groups(tmp_path: Path) -> None:
    settings = PhantomSettings(kind="3d", cases=8, size=24, depth=6)
    root = write_phantom(tmp_path / "phantom", settings)
    (root / "imagesTs").mkdir()
    (copied,) = (root / "imagesTr").glob("phantom_002*")
    (root / "imagesTs" / f"other{''.join(copied.suffixes)}").write_bytes(copied.read_bytes())
    cache = tmp_path / "cache"
    assert prepare_dataset(root, PrepareSettings(folds=2), cache).unlabelled == ()
    prepared = prepare_dataset(root, PrepareSettings(folds=2, unlabelled=True), cache)
    (other,) = prepared.unlabelled
    # a search without them has the same splits: what it locks, a pretraining has not seen
    assert prepared.splits == prepare_dataset(root, PrepareSettings(folds=2), cache).splits
    assert [case.group for case in prepared.cases] == [case.id for case in prepared.cases]
    assert (other.id, other.annotators, other.index) == ("other", (), 8)
    assert other.group == prepared.case("phantom_002").group
    assert ("other", "phantom_002") in prepared.near_duplicates
    roles = (prepared.splits.locked, prepared.splits.calibration, *prepared.splits.folds)
    assert sorted(name for role in roles for name in role) == [case.id for case in prepared.cases]
    assert open_case(prepared, other).image.shape == open_case(prepared, "phantom_002").image.shape


def test_labels_may_be_merged_into_one_class(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "phantom", PhantomSettings(cases=8, size=24, classes=3))
    apart = prepare_dataset(root, PrepareSettings(folds=2), tmp_path / "cache")
    merged = prepare_dataset(root, PrepareSettings(folds=2, merge_labels=True), tmp_path / "cache")
    assert (merged.label_names, merged.label_values, merged.classes) == (("background", "foreground"), (0, 1), 2)
    case = apart.cases[0].id
    assert open_case(apart, case).truth.max() == 2
    np.testing.assert_array_equal(open_case(merged, case).truth, open_case(apart, case).truth > 0)
    np.testing.assert_array_equal(open_case(merged, case).labels, open_case(apart, case).labels > 0)
    assert merged.case(case).foreground == (1,)


def test_an_annotator_of_other_images_is_told_before_anything_is_written(tmp_path: Path) -> None:
    root, cache = _pictures(tmp_path / "data"), tmp_path / "cache"
    masks = {path.name: np.asarray(Image.open(path)) for path in sorted((root / "masks").iterdir())}
    for name, mask in masks.items():
        (root / "masks" / name).unlink()
        _png(root / "masks" / "ann" / name, mask)
        _png(root / "masks" / "bob" / name, mask)
        _png(root / "masks" / "cleo" / name, np.roll(mask, 10, 0))
    with pytest.raises(UserError, match=r"annotator cleo: .* in 12 of 12 cases they share no voxel"):
        prepare_dataset(root, PrepareSettings(), cache)


def test_labels_may_be_chosen(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "data", PhantomSettings(cases=10, size=16, classes=4))
    whole = prepare_dataset(root, PrepareSettings(folds=2, max_side=16), tmp_path / "cache")
    chosen = prepare_dataset(root, PrepareSettings(folds=2, max_side=16, labels=(1, 3)), tmp_path / "cache")
    assert chosen.label_values == (0, 1, 3)
    assert chosen.label_names == tuple(whole.label_names[k] for k in (0, 1, 3))
    for case, other in zip(whole.cases, chosen.cases, strict=True):
        truth, found = open_case(whole, case).truth, open_case(chosen, other).truth
        assert np.array_equal(found, np.array([0, 1, 0, 2])[truth])
    with pytest.raises(UserError, match="labels to keep must be among 1, 2, 3, but got"):
        prepare_dataset(root, PrepareSettings(folds=2, labels=(9,)), tmp_path / "cache")


def test_settings_that_came_later_leave_the_keys_of_caches() -> None:
    plain = PrepareSettings()
    assert not {"window", "labels", "locked_pattern"} & set(plain.told)
    assert set(plain.told) == set(plain.to_json()) - {"window", "labels", "locked_pattern"}
    assert PrepareSettings(window=(0.0, 1.0)).told["window"] == [0.0, 1.0]
