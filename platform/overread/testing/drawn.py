"""Ensembles whose members read what a test draws, and small real ones written as packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from overread.architectures.contract import Losses, Segmenter, build_segmenter
from overread.data.hashing import file_sha256
from overread.ensemble.package import Package
from overread.records import (
    MAIN,
    Batch,
    Manifest,
    Member,
    Needs,
    Prepared,
    Preprocessing,
    Readings,
    TrialConfig,
    Variant,
    Winners,
)
from overread.training.checkpoint import save_weights

Drawn = NDArray[np.floating]


class DrawnSegmenter(Segmenter):
    """Reads any image of one window as the drawn probabilities (K, *S) of the variant, or raises the drawn error."""

    def __init__(self, drawn: Mapping[str, Drawn | Exception]) -> None:
        super().__init__()
        self.drawn = dict(drawn)
        self.needs = Needs()
        self.classes = next((len(d) for d in drawn.values() if not isinstance(d, Exception)), 2)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Drawn networks do not learn."""
        raise NotImplementedError

    def variants(self) -> tuple[Variant, ...]:
        """Return one variant per drawing."""
        return tuple(Variant(name=name) for name in self.drawn)

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return the pairs of drawn scales, as a U-Netmer does."""
        scales = [name for name in self.drawn if name.startswith("scale_")]
        return {f"c_{a[6:]}{b[6:]}": (a, b) for a, b in combinations(scales, 2)}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Return the drawing for every sample."""
        drawn = self.drawn[variant.name if variant else MAIN]
        if isinstance(drawn, Exception):
            raise drawn
        probabilities = torch.as_tensor(np.asarray(drawn, np.float32))
        return Readings(probabilities=probabilities.expand(len(batch.images), *probabilities.shape))


class DrawnPackage(Package):
    """A package in memory: by member name its drawings by variant."""

    def __init__(self, manifest: Manifest, drawings: Mapping[str, Mapping[str, Drawn | Exception]]) -> None:
        super().__init__(Path("nowhere"), manifest)
        self.drawings = drawings

    def segmenter(self, member: Member, device: torch.device | str = "cpu") -> Segmenter:
        """Return the drawn network of a member."""
        return DrawnSegmenter(self.drawings[member.name])

    def relation_sets(self, member: Member) -> Mapping[str, tuple[str, ...]]:
        """Return those of the drawn network."""
        return self.segmenter(member).relation_sets()


def drawn_package(
    size: tuple[int, int],
    label_names: Sequence[str],
    drawings: Mapping[str, Mapping[str, Drawn | Exception]],
    *,
    weights: Mapping[str, float] | None = None,
    baseline: str | None = None,
    label_values: Sequence[int] | None = None,
) -> DrawnPackage:
    """Return a package for 2-D grey images of `size`; drawings of several scales make a member a U-Netmer.

    `baseline` names the drawing that is read beside the others, without a vote.
    """
    members = {
        name: drawn_member(name, size, len(label_names), list(variants), (weights or {}).get(name, 1.0))
        for name, variants in drawings.items()
    }
    manifest = Manifest(
        name="drawn",
        members=tuple(member for name, member in members.items() if name != baseline),
        label_names=tuple(label_names),
        label_values=tuple(label_values or range(len(label_names))),
        preprocessing=Preprocessing(channels=("grey",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=512),
        winners="",
        prepared="",
        locked_cases=0,
        baseline=members[baseline] if baseline else None,
    )
    return DrawnPackage(manifest, drawings)


def drawn_member(name: str, size: tuple[int, int], classes: int, variants: list[str], weight: float = 1.0) -> Member:
    """Return the record of a drawn member."""
    scales = [int(variant.removeprefix("scale_")) for variant in variants if variant.startswith("scale_")]
    architecture = "unetmer" if scales else "unet"
    return Member(
        name=name,
        trial_id=name,
        architecture=architecture,
        variant=MAIN,
        config=TrialConfig(
            architecture=architecture,
            options={"scales": scales} if scales else {},
            in_channels=1,
            classes=classes,
            patch_size=size,
            steps=1,
        ),
        weights=f"{name}.safetensors",
        sha256="",
        validation_dice=0.8,
        weight=weight,
    )


def write_members(
    folder: Path, prepared: Prepared, configs: Mapping[str, tuple[TrialConfig, str]], baseline: str | None = None
) -> tuple[Winners, dict[str, Path]]:
    """Write untrained weights by member name from (config, variant); return the winners and the weights files.

    `baseline` names the one that has no vote.
    """
    sources, members = {}, {}
    for name, (config, variant) in configs.items():
        sources[name] = folder / name / "weights.safetensors"
        save_weights(sources[name], build_segmenter(config))
        members[name] = Member(
            name=name,
            trial_id=name,
            architecture=config.architecture,
            variant=variant,
            config=config,
            weights=f"{name}/weights.safetensors",
            sha256=file_sha256(sources[name]),
            validation_dice=0.5,
        )
    plain = members.pop(baseline) if baseline else None
    winners = Winners(rule="test", members=tuple(members.values()), prepared=prepared.content, baseline=plain)
    return winners, sources
