from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from overread.architectures import build_segmenter
from overread.ensemble.package import load_package, write_package
from overread.errors import UserError
from overread.jsonio import read_json, write_json
from overread.records import Manifest, Prepared, Winners
from overread.testing.drawn import write_members
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared

Parts = tuple[Winners, dict[str, Path], Prepared]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    prepared = tiny_prepared(tmp_path / "prepared", cases=3)
    configs = {
        "one": (tiny_config(seed=1), "main"),
        "two": (tiny_config(seed=2), "sharp"),
        "plain": (tiny_config(seed=3, baseline=True), "main"),
    }
    with tiny_architecture():
        winners, sources = write_members(tmp_path / "trials", prepared, configs, baseline="plain")
        yield winners, sources, prepared


def write(out: Path, parts: Parts, winners: Winners | None = None) -> Manifest:
    frozen, sources, prepared = parts
    return write_package(out, winners or frozen, sources, prepared, name="test", versions={"torch": "2"}, seed=3)


def test_package_is_whole_and_only_that(tmp_path: Path, parts: Parts) -> None:
    out = tmp_path / "run" / "ensemble"
    manifest = write(out, parts)
    names = ["manifest.json", "one.safetensors", "plain.safetensors", "two.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in out.parent.iterdir()] == ["ensemble"]
    assert load_package(out).manifest == manifest
    assert manifest.winners == parts[0].fingerprint()
    assert manifest.baseline is not None and manifest.baseline.name == "plain"
    assert (manifest.prepared, manifest.locked_cases, manifest.seed) == ("tiny", 0, 3)


def test_members_come_back_with_their_weights_ready_to_read(tmp_path: Path, parts: Parts) -> None:
    write(tmp_path / "package", parts)
    package = load_package(tmp_path / "package")
    one, two = (package.segmenter(member) for member in package.manifest.members)
    assert not one.training
    for segmenter, member in ((one, parts[0].members[0]), (two, parts[0].members[1])):
        for name, weights in build_segmenter(member.config).state_dict().items():
            assert torch.equal(segmenter.state_dict()[name], weights)
    assert not torch.equal(one.state_dict()["head.weight"], two.state_dict()["head.weight"])
    assert package.segmenter(package.manifest.members[0]) is one


def test_weights_beyond_the_cache_are_loaded_anew(tmp_path: Path, parts: Parts) -> None:
    write(tmp_path / "package", parts)
    package = load_package(tmp_path / "package", cache_bytes=0)
    member = package.manifest.members[0]
    assert package.segmenter(member) is not package.segmenter(member)


def test_variants_of_one_trial_share_the_network(tmp_path: Path, parts: Parts) -> None:
    winners, sources, prepared = parts
    one = winners.members[0]
    twin = replace(one, name="one-sharp", variant="sharp")
    both = replace(winners, members=(one, twin), baseline=None)
    write(tmp_path / "package", (both, sources | {"one-sharp": sources["one"]}, prepared))
    package = load_package(tmp_path / "package")
    assert package.segmenter(package.manifest.members[0]) is package.segmenter(package.manifest.members[1])


def test_baseline_that_is_a_member_is_stored_once(tmp_path: Path, parts: Parts) -> None:
    winners = replace(parts[0], baseline=parts[0].members[0])
    write(tmp_path / "package", parts, winners)
    assert sorted(path.stem for path in (tmp_path / "package").glob("*.safetensors")) == ["one", "two"]


def test_changed_weights_are_refused_and_nothing_is_left(tmp_path: Path, parts: Parts) -> None:
    with parts[1]["two"].open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(UserError, match="must be the weights frozen for two, but it has changed"):
        write(tmp_path / "run" / "package", parts)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": ()}, "at least 1 member"),
        ({"prepared": "other"}, "winners must be of this prepared data set"),
    ],
)
def test_winners_that_do_not_fit(tmp_path: Path, parts: Parts, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "package", parts, replace(parts[0], **change))
    assert not (tmp_path / "package").exists()


def test_existing_folder_and_missing_weights_are_refused(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "package").mkdir()
    with pytest.raises(UserError, match="must not exist yet"):
        write(tmp_path / "package", parts)
    with pytest.raises(UserError, match="member one must have a weights file"):
        write(tmp_path / "other", (parts[0], {}, parts[2]))
    parts[1]["one"].unlink()
    with pytest.raises(UserError, match="must hold the weights of one"):
        write(tmp_path / "other", parts)


def test_all_broken_files_are_named_at_once(tmp_path: Path, parts: Parts) -> None:
    folder = tmp_path / "package"
    write(folder, parts)
    (folder / "one.safetensors").write_bytes(b"other")
    (folder / "two.safetensors").unlink()
    with pytest.raises(UserError) as error:
        load_package(folder)
    first, second = error.value.problems
    assert "one.safetensors must have the SHA-256 of the manifest" in first
    assert "two.safetensors must exist" in second


@pytest.mark.parametrize("place", ["../one.safetensors", "/one.safetensors", "a/../../one.safetensors", "one.pkl"])
def test_paths_that_leave_the_package_are_refused(tmp_path: Path, parts: Parts, place: str) -> None:
    folder = tmp_path / "package"
    write(folder, parts)
    data = read_json(folder / "manifest.json")
    data["members"][0]["weights"] = place
    write_json(folder / "manifest.json", data)
    with pytest.raises(UserError, match="one: weights must be a safetensors file inside the package"):
        load_package(folder)


def test_links_out_of_the_package_are_refused(tmp_path: Path, parts: Parts) -> None:
    folder = tmp_path / "package"
    write(folder, parts)
    (folder / "one.safetensors").unlink()
    (folder / "one.safetensors").symlink_to(parts[1]["one"])
    with pytest.raises(UserError, match="inside the package"):
        load_package(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"label_names": ["background", "a", "b"], "label_values": [0, 1, 2]},
            "one must have 3 classes and 1 channels",
        ),
        ({"label_values": [0]}, "one name and one value each, but there are 2 and 1"),
    ],
)
def test_manifest_that_contradicts_itself(
    tmp_path: Path, parts: Parts, change: dict[str, object], message: str
) -> None:
    folder = tmp_path / "package"
    write(folder, parts)
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | change)
    with pytest.raises(UserError, match=message):
        load_package(folder)


def test_doubled_names_and_weights_of_zero_are_refused(tmp_path: Path, parts: Parts) -> None:
    one = replace(parts[0].members[0], weight=0.0)
    with pytest.raises(UserError) as error:
        write(tmp_path / "package", parts, replace(parts[0], members=(one, one)))
    assert "one is there twice" in error.value.problems[0]
    assert "one must have a weight above 0, but it is 0.0" in error.value.problems[1]


def test_class_weights_are_kept_and_checked(tmp_path: Path, parts: Parts) -> None:
    one, two = parts[0].members
    apart = replace(parts[0], members=(replace(one, class_weights=(0.6, 1.0)), replace(two, class_weights=(0.4, 0.5))))
    assert parts[0].fingerprint() != apart.fingerprint()
    manifest = write(tmp_path / "package", parts, apart)
    assert [member.vote for member in manifest.members] == [(0.6, 1.0), (0.4, 0.5)]
    assert load_package(tmp_path / "package").manifest == manifest
    for weights in ((1.0,), (1.0, 0.0), (1.0, float("inf"))):
        with pytest.raises(UserError, match="one must have 2 class weights above 0"):
            write(tmp_path / "other", parts, replace(apart, members=(replace(one, class_weights=weights), two)))
    with pytest.raises(UserError, match="class weights need the fusion 'soft', but one has some under 'staple'"):
        write(tmp_path / "other", parts, replace(apart, fusion="staple"))


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json must exist"):
        load_package(tmp_path)
