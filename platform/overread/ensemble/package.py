"""The ensemble package: a folder with `manifest.json` and one safetensors file per member. No pickle anywhere.

It is written beside its place and renamed, the manifest last; read back, every file must lie inside the folder and
have the SHA-256 of the manifest. A member that needs only a part of its trial's network (a pruning level) is stored as
that part: its config and weights are those of the smaller network, its variant is `main`.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from overread.architectures.contract import Alone, Segmenter, build_segmenter
from overread.confidence.judgement import Judgement
from overread.data.hashing import file_sha256
from overread.errors import UserError
from overread.records import MAIN, Manifest, Member, Prepared, TrialConfig, Winners
from overread.training.checkpoint import save_weights
from overread.training.inference import load_segmenter

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
CONFIDENCE = "confidence.json"
"""The `Judgement` of the package's scores, where there were cases to fit it on; written after the package."""
CACHE_BYTES = 1 << 30
"""Weights that a package keeps in memory between cases; members beyond are loaded anew for each case."""


class Package:
    """A verified ensemble package. Members are loaded when first read and kept as long as they fit `cache_bytes`."""

    def __init__(self, folder: Path, manifest: Manifest, cache_bytes: int = CACHE_BYTES) -> None:
        """Use `load_package`, which verifies the folder first."""
        self.folder = folder
        self.manifest = manifest
        self._cache_bytes = cache_bytes
        self._loaded: dict[tuple[str, str], Segmenter] = {}
        self._held = 0
        self._sets: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self.judgement = load_judgement(folder, manifest)
        """None: the package was not calibrated."""
        self.without_sa: set[str] = set()
        """Names of members whose networks were found to have no SA score."""
        self._told: set[str] = set()

    def segmenter(self, member: Member, device: torch.device | str = "cpu") -> Segmenter:
        """Return a member's network on `device`, in evaluation mode; variants of one trial share it."""
        key = (member.sha256 + member.config.fingerprint(), str(device))
        if key not in self._loaded:
            path = self.folder / member.weights
            segmenter = load_segmenter(member.config, path, device)
            size = path.stat().st_size
            if self._held + size > self._cache_bytes:
                return segmenter
            self._loaded[key] = segmenter
            self._held += size
        return self._loaded[key]

    def relation_sets(self, member: Member) -> Mapping[str, tuple[str, ...]]:
        """Return `Segmenter.relation_sets` of a member from its config alone: also of one whose weights do not load."""
        key = member.config.fingerprint()
        if key not in self._sets:
            with torch.device("meta"):
                self._sets[key] = build_segmenter(member.config).relation_sets()
        return self._sets[key]

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning that would come again with every case."""
        if message % arguments not in self._told:
            self._told.add(message % arguments)
            logger.warning(message, *arguments)


def write_package(
    out: Path,
    winners: Winners,
    sources: Mapping[str, Path],
    prepared: Prepared,
    *,
    name: str,
    versions: Mapping[str, str],
    earlier_packages: tuple[str, ...] = (),
    calibration: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Manifest:
    """Write a package and return its manifest.

    Args:
        out: Folder to make; it must not exist.
        winners: Frozen members, and the baseline if there is one.
        sources: Weights file by member name, that of the baseline included.
        prepared: The data set they were trained on.
        name: Name of the ensemble.
        versions: Of the libraries that read it.
        earlier_packages: Fingerprints of winners measured on the same locked split before.
        calibration: Figures of the calibration split.
        seed: Seed of the run.

    Raises:
        UserError: `out` exists, weights are missing or are not those that were frozen, or members do not fit the data.

    """
    if out.exists():
        raise UserError(f"{out} must not exist yet, but it does: give another folder or delete it")
    if winners.prepared != prepared.content:
        raise UserError("winners must be of this prepared data set, but they are of another: select them again")
    manifest = Manifest(
        name=name,
        members=tuple(_packaged(member) for member in winners.members),
        label_names=prepared.label_names,
        label_values=prepared.label_values,
        preprocessing=prepared.preprocessing,
        winners=winners.fingerprint(),
        prepared=prepared.content,
        locked_cases=len(prepared.splits.locked),
        baseline=_packaged(winners.baseline) if winners.baseline else None,
        earlier_packages=earlier_packages,
        fusion=winners.fusion,
        imported=winners.imported,
        calibration=dict(calibration) if calibration is not None else None,
        versions=dict(versions),
        seed=seed,
    )
    _raise(_manifest_problems(manifest))
    out.parent.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Member] = {}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".partial-") as temporary:
        folder = Path(temporary) / "package"
        folder.mkdir()
        for member in _all(manifest):
            if member.name not in sources:
                raise UserError(f"member {member.name} must have a weights file, but none was given")
            stored[member.name] = _store(sources[member.name], folder / member.weights, member)
        manifest = replace(
            manifest,
            members=tuple(stored[member.name] for member in manifest.members),
            baseline=stored[manifest.baseline.name] if manifest.baseline else None,
        )
        manifest.save(folder / MANIFEST)
        folder.rename(out)
    return manifest


def load_package(folder: Path, cache_bytes: int = CACHE_BYTES) -> Package:
    """Verify a package and open it; all problems come in one `UserError`. No weights are loaded yet."""
    manifest = Manifest.load(folder / MANIFEST)
    _raise([*_manifest_problems(manifest), *(p for m in _all(manifest) for p in _file_problems(folder, m))])
    return Package(folder, manifest, cache_bytes)


def load_judgement(folder: Path, manifest: Manifest) -> Judgement | None:
    """Read `confidence.json` of a package; None if it has none. One of other winners raises `UserError`."""
    path = folder / CONFIDENCE
    if not path.is_file():
        return None
    judgement = Judgement.load(path)
    if judgement.winners != manifest.winners:
        raise UserError(f"{path} must belong to the package's winners, but is of others: calibrate the package again")
    return judgement


def _all(manifest: Manifest) -> list[Member]:
    """Members, and the baseline unless it is one of them."""
    extra = manifest.baseline
    known = {member.name for member in manifest.members}
    return [*manifest.members, *([extra] if extra and extra.name not in known else [])]


def _packaged(member: Member) -> Member:
    return replace(member, weights=f"{member.name}.safetensors")


def _store(source: Path, target: Path, member: Member) -> Member:
    """Write the weights that a member needs and return it as it is packaged."""
    if not source.is_file():
        raise UserError(f"{source} must hold the weights of {member.name}, but it does not exist: train it again")
    shutil.copyfile(source, target)
    if file_sha256(target) != member.sha256:
        raise UserError(f"{source} must be the weights frozen for {member.name}, but it has changed: select again")
    if stored_part(member.config, member.variant) is None:
        return member
    segmenter = load_segmenter(member.config, target, "cpu")
    part = segmenter.alone(segmenter.variant(member.variant))
    assert part is not None  # noqa: S101  (stored_part)
    save_weights(target, part.segmenter)
    config = replace(member.config, options=dict(part.options))
    return replace(member, config=config, variant=MAIN, sha256=file_sha256(target))


def stored_part(config: TrialConfig, variant: str) -> Alone | None:
    """Return the part of a network that a package stores for a variant, without weights; None: all of the network."""
    with torch.device("meta"):
        segmenter = build_segmenter(config)
        known = {one.name for one in segmenter.variants()}
        return segmenter.alone(segmenter.variant(variant)) if variant in known else None


def _manifest_problems(manifest: Manifest) -> list[str]:
    problems = [] if manifest.voters else ["an ensemble must have at least 1 member, but has none"]
    names = [member.name for member in manifest.voters]
    problems += [
        f"member names must be unique, but {n} is there twice" for n in sorted(set(names)) if names.count(n) > 1
    ]
    if len(manifest.label_names) != len(manifest.label_values):
        counts = f"{len(manifest.label_names)} and {len(manifest.label_values)}"
        problems.append(f"labels must have one name and one value each, but there are {counts}")
    classes, channels = len(manifest.label_names), len(manifest.preprocessing.channels)
    for member in _all(manifest):
        if (member.config.classes, member.config.in_channels) != (classes, channels):
            found = f"{member.config.classes} and {member.config.in_channels}"
            problems.append(f"{member.name} must have {classes} classes and {channels} channels, but has {found}")
    for voter in (*manifest.voters, *([manifest.baseline] if manifest.baseline else [])):
        if not voter.weight > 0:
            problems.append(f"{voter.name} must have a weight above 0, but it is {voter.weight}")
        own = voter.class_weights
        if own and (len(own) != classes or not all(0 < value < math.inf for value in own)):
            problems.append(f"{voter.name} must have {classes} class weights above 0, but has {list(own)}")
        if own and manifest.fusion != "soft":
            problems.append(
                f"class weights need the fusion 'soft', but {voter.name} has some under '{manifest.fusion}'"
            )
    return problems


def _file_problems(folder: Path, member: Member) -> list[str]:
    """Return what is wrong with a member's file. A manifest may come from anywhere: its paths are not trusted."""
    relative, path = PurePosixPath(member.weights), folder / member.weights
    inside = path.resolve().is_relative_to(folder.resolve())
    if relative.is_absolute() or ".." in relative.parts or not inside or path.suffix != ".safetensors":
        return [f"{member.name}: weights must be a safetensors file inside the package, but are '{member.weights}'"]
    if not path.is_file():
        return [f"{path} must exist, but it does not: copy the whole package again"]
    if file_sha256(path) != member.sha256:
        return [f"{path} must have the SHA-256 of the manifest, but has another: copy the whole package again"]
    return []


def _raise(problems: list[str]) -> None:
    if problems:
        raise UserError(*problems)
