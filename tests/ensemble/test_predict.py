import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from overread.data.images import NativeImage, read_image, read_label
from overread.ensemble.features import mean_sa
from overread.ensemble.package import load_package, write_package
from overread.ensemble.predict import CaseReading, read_case, write_confidence_csv, write_reading
from overread.ensemble.reader import MemberReader
from overread.errors import UserError
from overread.records import CaseConfidence
from overread.testing.drawn import Drawn, DrawnPackage, drawn_package, write_members
from overread.testing.tiny import tiny_config, tiny_prepared

LABELS = ("background", "organ", "lesion")
# one row of four voxels; certain readings
FIRST = [1, 1, 0, 2]
SECOND = [1, 0, 0, 2]
EMPTY = [0, 0, 0, 0]


def certain(ids: list[int], probability: float = 0.8) -> Drawn:
    """(3, 1, 4) probabilities: `probability` for the class of each voxel, the rest shared."""
    drawn = np.full((3, 1, len(ids)), (1 - probability) / 2)
    for voxel, k in enumerate(ids):
        drawn[k, 0, voxel] = probability
    return drawn


def grey(size: tuple[int, ...] = (1, 4), file_format: str = ".png") -> NativeImage:
    array = np.arange(np.prod(size), dtype=np.float32).reshape(1, *size)
    return NativeImage(array, None, None, "uint8", file_format)


def package_of(*drawings: Drawn | Exception, **options: object) -> DrawnPackage:
    names = {f"m{index}": {"main": drawn} for index, drawn in enumerate(drawings, start=1)}
    return drawn_package((1, 4), LABELS, names, **options)  # type: ignore[arg-type]


def read(package: DrawnPackage, **options: object) -> CaseReading:
    return read_case(package, grey(), "cpu", case_id="a", **options)  # type: ignore[arg-type]


def test_vote_relations_and_confidence_by_hand() -> None:
    reading = read(package_of(certain(FIRST, 0.8), certain(SECOND, 0.6)))
    np.testing.assert_allclose(
        reading.probabilities[:, 0, 1], [(0.1 + 0.6) / 2, (0.8 + 0.2) / 2, (0.1 + 0.2) / 2], rtol=1e-6
    )
    assert reading.mask.tolist() == [[1, 1, 0, 2]]
    assert reading.possible(1).tolist() == [[True, True, False, False]]
    assert reading.consensus(1).tolist() == [[True, False, False, False]]
    row = reading.confidence
    assert row.relation_confidence_per_class == {"organ": pytest.approx(2 / 3), "lesion": 1.0}
    assert row.relation_confidence == row.pairwise_dice == pytest.approx(5 / 6)
    assert (row.n_readings, row.flag) == (2, "")
    # the surest voxel: background 0.1 and 0.2
    assert row.foreground == pytest.approx(1 - 0.15)
    assert reading.relations.names == ["m1", "m2"]
    assert (reading.dice, reading.member_dice, reading.failed) == (None, {}, {})


def test_weights_of_members_count() -> None:
    reading = read(package_of(certain(FIRST), certain(SECOND), weights={"m2": 3.0}))
    assert reading.probabilities[1, 0, 1] == pytest.approx((0.8 + 3 * 0.1) / 4)
    assert reading.mask.tolist() == [[1, 0, 0, 2]]


def per_class(package: DrawnPackage, *weights: tuple[float, ...]) -> DrawnPackage:
    """The package with its members weighted per class: background, organ, lesion."""
    members = zip(package.manifest.members, weights, strict=True)
    package.manifest = replace(
        package.manifest, members=tuple(replace(member, class_weights=own) for member, own in members)
    )
    return package


def test_weights_per_class_by_hand() -> None:
    drawings = (certain(FIRST), certain(SECOND))
    reading = read(per_class(package_of(*drawings), (0.5, 1.0, 0.001), (0.5, 0.001, 1.0)))
    # second voxel: 0.1 and 0.8 of the background, 0.8 and 0.1 of the organ, 0.1 and 0.1 of the lesion
    votes = np.array([0.45, (0.8 + 0.001 * 0.1) / 1.001, 0.1])
    np.testing.assert_allclose(reading.probabilities[:, 0, 1], votes / votes.sum(), rtol=1e-5)
    assert reading.mask.tolist() == [[1, 1, 0, 2]]
    assert read(per_class(package_of(*drawings), (0.5, 0.001, 1), (0.5, 1, 0.001))).mask.tolist() == [[1, 0, 0, 2]]


def test_a_class_whose_voter_failed_is_left_to_the_others() -> None:
    package = package_of(RuntimeError("broken"), certain(FIRST))
    reading = read(per_class(package, (0.5, 1.0, 1.0), (0.5, 0.001, 0.001)))
    assert reading.mask.tolist() == [[1, 1, 0, 2]]
    assert reading.confidence.flag.startswith("member_failed:m1")
    np.testing.assert_allclose(reading.probabilities, certain(FIRST), rtol=1e-5)


def test_the_fusion_of_the_package_makes_the_mask_and_the_soft_vote_ranks() -> None:
    # second voxel: organ in two of three masks, the background surer in the third: 0.4 + 0.4 + 0.05 against 0.9
    drawings = [certain(FIRST, 0.4), certain(FIRST, 0.4), certain(SECOND, 0.9)]
    soft, package = package_of(*drawings), package_of(*drawings)
    package.manifest = replace(package.manifest, fusion="majority")
    assert read(soft).mask.tolist() == [[1, 0, 0, 2]]
    majority = read(package)
    assert majority.mask.tolist() == [[1, 1, 0, 2]]
    np.testing.assert_allclose(majority.probabilities[:, 0, 1], [1 / 3, 2 / 3, 0], rtol=1e-6)
    assert majority.confidence.volume_per_class == {"organ": 2.0, "lesion": 1.0}
    of_mask = {"volume_per_class": {}, "components_per_class": {}}
    assert replace(majority.confidence, **of_mask) == replace(read(soft).confidence, **of_mask)
    package.manifest = replace(package.manifest, fusion="staple")
    assert read(package).mask[0, 0] == 1
    # no mask has it: shares of 0 would rank this case as surely empty
    doubtful = package_of(*[certain(EMPTY, 0.5)] * 3)
    doubtful.manifest = replace(doubtful.manifest, fusion="majority")
    assert read(doubtful).confidence.foreground == pytest.approx(0.5)


def test_truth_gives_dice_of_ensemble_members_and_baseline() -> None:
    package = package_of(certain(FIRST), certain(FIRST), certain(SECOND), baseline="m3")
    reading = read(package, truth=np.array([[1, 1, 0, 0]]))
    assert reading.dice is not None
    assert reading.dice.per_class == (1.0, 0.0)
    assert reading.dice.mean == 0.5
    assert {name: dice.mean for name, dice in reading.member_dice.items()} == {
        "m1": 0.5,
        "m2": 0.5,
        "m3": pytest.approx((2 / 3 + 0) / 2),
    }
    assert reading.confidence.n_readings == 2  # the baseline has no vote


def test_baseline_that_fails_takes_nothing_with_it() -> None:
    package = package_of(certain(FIRST), certain(FIRST), RuntimeError("no"), baseline="m3")
    reading = read(package, truth=np.array([FIRST]))
    assert sorted(reading.member_dice) == ["m1", "m2"]
    assert reading.confidence.flag == ""


@pytest.mark.parametrize("broken", [RuntimeError("mat1 and mat2"), certain(EMPTY) * np.nan])
def test_failed_member_is_left_out_and_flagged(broken: Drawn | Exception) -> None:
    reading = read(package_of(certain(FIRST), broken, certain(SECOND)), truth=np.array([FIRST]))
    assert reading.confidence.flag == "member_failed:m2"
    assert reading.confidence.n_readings == 2
    assert sorted(reading.member_dice) == ["m1", "m3"]
    assert list(reading.failed) == ["m2"]
    np.testing.assert_allclose(reading.probabilities.sum(0), 1, rtol=1e-6)


def test_case_that_no_member_reads() -> None:
    with pytest.raises(UserError, match=r"case a: at least one member must read it.*m1: RuntimeError: no; m2: Arith"):
        read(package_of(RuntimeError("no"), certain(EMPTY) * np.inf))


def test_one_member() -> None:
    reading = read(package_of(certain(FIRST)))
    assert reading.mask.tolist() == [FIRST]
    assert (reading.confidence.flag, reading.confidence.relation_confidence) == ("one_reading", None)


def test_all_empty_is_flagged_with_its_foreground_probability() -> None:
    reading = read(package_of(certain(EMPTY, 0.9), certain(EMPTY, 0.6)), truth=np.array([EMPTY]))
    assert (reading.confidence.flag, reading.confidence.pairwise_dice) == ("all_empty", None)
    assert reading.confidence.foreground == pytest.approx(0.25)
    assert reading.dice is not None and reading.dice.mean == 1


def relation_scores(reading: CaseReading) -> dict[str, float | None]:
    return {name: value for name, value in reading.confidence.scores.items() if name not in ("sa_mean", "entropy")}


def test_entropy_volume_and_parts_by_hand() -> None:
    # voxels 0 and 3 are foreground, 0.9 against two of 0.05 in both readings
    reading = read(package_of(certain([1, 1, 0, 1], 0.9), certain([1, 0, 0, 1], 0.9)))
    assert reading.mask.tolist() == [[1, 0, 0, 1]]  # voxel 1: 0.475 to 0.475, a tie, which the lower id wins
    sure = -(0.9 * np.log(0.9) + 2 * 0.05 * np.log(0.05))
    row = reading.confidence
    assert row.scores == {"sa_mean": None, "entropy": pytest.approx(-sure)}  # drawn networks have no layers
    assert (row.volume_unit, row.volume_per_class) == ("pixels", {"organ": 2.0, "lesion": 0.0})
    assert row.components_per_class == {"organ": 2, "lesion": 0}
    assert row.absent == ("lesion",)
    assert read(package_of(certain(EMPTY))).confidence.scores == {"sa_mean": None, "entropy": None}
    spaced = replace(grey(), spacing=(0.5, 3.0))
    row = read_case(package_of(certain(FIRST)), spaced, "cpu", case_id="a").confidence
    assert (row.volume_unit, row.volume_per_class) == ("mm2", {"organ": 3.0, "lesion": 1.5})


def test_c_ij_of_the_first_member_with_scales() -> None:
    scales = {"main": certain(FIRST), "scale_1": certain(FIRST), "scale_2": certain(SECOND), "scale_4": certain(EMPTY)}
    other = {"main": certain(FIRST), "scale_1": certain(FIRST), "scale_2": certain(FIRST)}
    package = drawn_package((1, 4), LABELS, {"plain": {"main": certain(FIRST)}, "mer": scales, "mer2": other})
    assert relation_scores(read(package)) == {"c_12": pytest.approx((2 / 3 + 1) / 2), "c_14": 0.0, "c_24": 0.0}
    assert relation_scores(read(package, relation_scores=False)) == {}


def test_c_ij_keeps_its_columns_where_the_member_fails() -> None:
    broken = {"main": certain(FIRST), "scale_1": certain(FIRST), "scale_2": RuntimeError("no")}
    package = drawn_package((1, 4), LABELS, {"plain": {"main": certain(FIRST)}, "mer": broken})
    assert relation_scores(read(package)) == {"c_12": None}
    package.drawings["mer"]["main"] = RuntimeError("no")  # type: ignore[index]
    reading = read(package)
    assert relation_scores(reading) == {"c_12": None}
    assert reading.confidence.flag == "member_failed:mer;one_reading"


def test_images_that_do_not_fit_are_refused() -> None:
    package = package_of(certain(FIRST))
    broken = grey()
    broken.array[0, 0, 0] = np.nan
    with pytest.raises(UserError, match="case a: voxels must be finite"):
        read_case(package, broken, "cpu", case_id="a")
    with pytest.raises(UserError, match=r"case a: truth must have shape \(1, 4\), but has \(4,\)"):
        read(package, truth=np.zeros(4, int))
    with pytest.raises(UserError, match="channels"):
        read_case(
            package, NativeImage(np.zeros((3, 1, 4), np.float32), None, None, "uint8", ".png"), "cpu", case_id="a"
        )


def test_possible_map_takes_the_more_probable_of_overlapping_unions() -> None:
    reading = read(package_of(certain([1, 1, 0, 0], 0.9), certain([2, 0, 0, 2], 0.6)))
    # voxel 0 may be 1 (mean 0.55) or 2 (0.325)
    assert reading.possible_map().tolist() == [[1, 1, 0, 2]]
    assert reading.consensus_map().tolist() == [[0, 0, 0, 0]]
    assert reading.possible(2).tolist() == [[True, False, False, True]]


def test_folder_of_pictures(tmp_path: Path) -> None:
    package = package_of(certain(FIRST, 0.8), certain(SECOND, 0.6), label_values=(0, 100, 255))
    reading = read(package)
    path = write_reading(tmp_path, "a.1", reading, grey(), package.manifest, probabilities=True)
    assert path == tmp_path / "masks" / "a.1.png"
    assert read_label(path).tolist() == [[100, 100, 0, 255]]
    assert read_label(tmp_path / "possible" / "a.1.png").tolist() == [[100, 100, 0, 255]]
    assert read_label(tmp_path / "consensus" / "a.1.png").tolist() == [[100, 0, 0, 255]]
    assert read_label(tmp_path / "possible" / "1-organ" / "a.1.png").tolist() == [[100, 100, 0, 0]]
    assert read_label(tmp_path / "possible" / "2-lesion" / "a.1.png").tolist() == [[0, 0, 0, 255]]
    assert len(list((tmp_path / "probabilities").iterdir())) == 1


def test_probabilities_only_if_asked_for_and_unions_by_class_only_if_several(tmp_path: Path) -> None:
    drawn = np.array([[[0.2, 0.2, 0.9, 0.9]], [[0.8, 0.8, 0.1, 0.1]]])
    package = drawn_package((1, 4), ("background", "../a b"), {"m": {"main": drawn}})
    write_reading(tmp_path, "a", read(package), grey(), package.manifest)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["consensus/a.png", "masks/a.png", "possible/a.png"]


def test_label_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    package = drawn_package((1, 4), ("background", "../../up", "b"), {"m": {"main": certain(FIRST)}})
    write_reading(tmp_path / "out", "a", read(package), grey(), package.manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "possible" / "1-.._.._up" / "a.png").is_file()


def test_volume_keeps_its_geometry_and_format(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (5, 6, 7)
    voxels = np.random.default_rng(0).integers(0, 99, (4, 6, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "case.nii.gz")
    native = read_image([tmp_path / "case.nii.gz"])
    drawn = np.zeros((2, 4, 6))
    drawn[1, :2], drawn[0, 2:] = 1, 1
    package = drawn_package((4, 6), ("background", "organ"), {"m1": {"main": drawn}, "m2": {"main": drawn}})
    volumes = replace(package.manifest.preprocessing, spatial_dims=3, slice_axis=2)
    package = DrawnPackage(replace(package.manifest, preprocessing=volumes), package.drawings)
    reading = read_case(package, native, "cpu", case_id="case")
    assert reading.probabilities.shape == (2, 4, 6, 3)
    path = write_reading(tmp_path / "out", "case", reading, native, package.manifest)
    assert path.name == "case.nii.gz"
    written = nib.load(path)
    assert written.get_data_dtype() == np.int16
    np.testing.assert_allclose(written.affine, affine)
    expected = np.zeros((4, 6, 3))
    expected[:2] = 1
    np.testing.assert_array_equal(written.get_fdata(), expected)


def test_real_networks_of_three_families_from_a_package(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path / "prepared", cases=3, shape=(1, 16, 16))
    mer = {"scales": [1, 2], "width": 4, "pools": 2, "transformer_depth": 1, "heads": 2}
    sharp = {"width": 4, "level": 2, "deep_supervision": True}
    settings = {"unet": {"width": 4, "depth": 3}, "unetmer": mer, "unet_sharp": sharp}
    variants = {"unet": "main", "unetmer": "scale_2", "unet_sharp": "level_1"}
    configs = {
        name: (tiny_config(architecture=name, options=options, patch_size=(16, 16)), variants[name])
        for name, options in settings.items()
    }
    winners, sources = write_members(tmp_path, prepared, configs)
    write_package(tmp_path / "package", winners, sources, prepared, name="test", versions={})
    package = load_package(tmp_path / "package")
    reading = read_case(package, grey((20, 12)), "cpu", case_id="a")
    assert (reading.failed, reading.relations.names) == ({}, list(configs))
    np.testing.assert_allclose(reading.probabilities.sum(0), np.ones((20, 12)), rtol=1e-5)
    scores = reading.confidence.scores
    assert list(scores) == ["c_12", "sa_mean", "entropy"]
    member = package.manifest.members[0]  # all weigh the same
    image = MemberReader(package, grey((20, 12)), "cpu").image
    assert scores["sa_mean"] == mean_sa(package.segmenter(member), image, member.config)
    write_confidence_csv(tmp_path / "confidence.csv", [reading.confidence], package.manifest.label_names)
    (row,) = csv.DictReader((tmp_path / "confidence.csv").open())
    assert float(row["sa_mean"]) == pytest.approx(scores["sa_mean"], rel=1e-5)
    without = read_case(package, grey((20, 12)), "cpu", case_id="a", relation_scores=False)
    assert list(without.confidence.scores) == ["entropy"]


def row(case: str, scores: dict[str, float | None]) -> CaseConfidence:
    return CaseConfidence(
        case=case,
        n_readings=3,
        flag="",
        foreground=0.5,
        relation_confidence=0.75,
        pairwise_dice=None,
        relation_confidence_per_class={"organ": 0.75, "a,b": None},
        pairwise_dice_per_class={"organ": None, "a,b": 1 / 3},
        scores=scores,
        predicted_dice=0.625,
        dice_lower_bound=0.5,
        predicted_dice_per_class={"organ": 0.7, "a,b": None},
        dice_lower_bound_per_class={"organ": 0.6},
    )


def test_confidence_csv(tmp_path: Path) -> None:
    path = tmp_path / "confidence.csv"
    write_confidence_csv(path, [row("a", {"c_12": 0.5}), row("b", {"c_14": 1.0})], ("background", "organ", "a,b"))
    header, first, second = list(csv.reader(path.open()))
    assert header == [
        *("case", "n_readings", "flag", "foreground", "relation_confidence", "pairwise_dice"),
        *("predicted_dice", "dice_lower_bound"),
        *("relation_confidence_organ", "relation_confidence_a,b", "pairwise_dice_organ", "pairwise_dice_a,b"),
        *("predicted_dice_organ", "predicted_dice_a,b", "dice_lower_bound_organ", "dice_lower_bound_a,b"),
        *("c_12", "c_14"),
    ]
    relation = ["0.75", "", "0.625", "0.5", "0.75", "", "", "0.333333"]
    assert first == ["a", "3", "", "0.5", *relation, "0.7", "", "0.6", "", "0.5", ""]
    assert second[-2:] == ["", "1"]


def test_confidence_csv_has_the_extent_of_each_class(tmp_path: Path) -> None:
    path = tmp_path / "confidence.csv"
    volumes, parts = {"organ": 12.5, "a,b": 0.0}, {"organ": 2, "a,b": 0}
    rows = [
        replace(row("a", {}), volume_unit="ml", volume_per_class=volumes, components_per_class=parts),
        replace(row("b", {}), volume_unit="voxels", volume_per_class=volumes, components_per_class=parts),
        row("c", {}),
    ]
    write_confidence_csv(path, rows, ("background", "organ", "a,b"))
    header, *found = list(csv.reader(path.open()))
    assert header[-6:] == [
        *("volume_ml_organ", "volume_ml_a,b", "volume_voxels_organ", "volume_voxels_a,b"),
        *("components_organ", "components_a,b"),
    ]
    assert [line[-6:] for line in found] == [
        ["12.5", "0", "", "", "2", "0"],
        ["", "", "12.5", "0", "2", "0"],
        [""] * 6,
    ]


def peak_of(members: int, size: tuple[int, int], *, apart: bool = False) -> int:
    drawn = np.full((2, *size), 0.5, np.float32)
    package = drawn_package(size, ("background", "organ"), {f"m{i}": {"main": drawn} for i in range(members)})
    if apart:
        per_class(package, *[(0.5, 1.0)] * members)
    image = grey(size)
    tracemalloc.start()
    read_case(package, image, "cpu", case_id="a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("apart", [False, True])
def test_peak_memory_does_not_grow_with_members(apart: bool) -> None:
    size = (512, 512)
    peak_of(2, (64, 64), apart=apart)  # imports and caches
    voxels = size[0] * size[1]
    # six more members may cost six bit-packed masks and nothing near six more probability maps (8 bytes a voxel)
    assert peak_of(8, size, apart=apart) - peak_of(2, size, apart=apart) < 6 * voxels / 8 + voxels
