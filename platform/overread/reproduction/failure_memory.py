"""Peak memory of reading a case by the number of members, along the path that packages are read by.

`ensemble.predict.read_case` reads the largest locked case with the U-Nets of the benchmark, which take turns, in a
process of its own for every number of members. Networks are loaded one by one, as those of a package are whose weights
do not fit its cache: what is measured are the maps. The image is the prepared one brought to the grid of the case, so
that no reading of files is in the figures; scores of the networks' own (`sa_mean`) are.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from overread.data.images import NativeImage
from overread.data.preprocess import to_native
from overread.data.store import load_prepared, open_case
from overread.ensemble.package import Package
from overread.ensemble.predict import read_case
from overread.jsonio import JsonRecord, fingerprint, read_json, write_json
from overread.records import MAIN, Manifest, Member, Prepared, TrialConfig
from overread.reproduction.cost import in_new_process, peak_memory, start_peak
from overread.reproduction.results import Findings
from overread.review.tables import Grid

MEMBERS = (1, 2, 3, 5, 10, 20)
"""Numbers of members that are measured."""
MEMORY = "memory.json"
THIN = 16
"""Voxels along each axis, about, of the image that is read first."""
VERSION = 2
"""Of what is measured. 2: the package's own reading."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MemoryItem(JsonRecord):
    """Members that read one case together, to be measured."""

    configs: tuple[TrialConfig, ...]
    weights: tuple[str, ...]
    case: str
    prepared: str
    """Folder of the prepared data set."""


def measure_memory(findings: Findings, names: Sequence[str]) -> None:
    """Write the peak memory of reading the largest test case with rows `names`, unless it is written.

    A measurement that fails, as of a process that the system ended, is told and leaves no table.
    """
    assert findings.combined is not None  # noqa: S101  (the program sets it before it combines)
    networks = [findings.networks[name][0] for name in names]
    prepared, path = findings.prepared, findings.combined / MEMORY
    case = max((prepared.case(c) for c in prepared.splits.locked), key=lambda c: math.prod(c.native_shape))
    told = {"members": [weights.parent.name for _, weights in networks], "case": case.id, "version": VERSION}
    key = fingerprint(told | {"counts": MEMBERS})[:12]
    if path.is_file() and read_json(path)["key"] == key:
        return
    found = {}
    for count in MEMBERS:
        chosen = [networks[i % len(networks)] for i in range(count)]
        item = MemoryItem(
            configs=tuple(config for config, _ in chosen),
            weights=tuple(str(weights) for _, weights in chosen),
            case=case.id,
            prepared=prepared.root,
        )
        try:
            found[str(count)] = in_new_process(package_memory, item)
        except Exception as error:  # the tables of hours of reading must not fall with it
            log.warning("memory of %d members: %s: %s", count, type(error).__name__, error)
            path.unlink(missing_ok=True)
            return
    voxels, foreground = math.prod(case.native_shape), prepared.classes - 1
    write_json(path, {"key": key, "case": case.id, "voxels": voxels, "foreground": foreground, "bytes": found})


def package_memory(item: MemoryItem) -> int:
    """Return the bytes that reading a case takes at its peak, beyond a process that has read a small image."""
    import torch

    torch.set_num_threads(1)
    prepared = load_prepared(Path(item.prepared))
    manifest = Manifest(
        name="memory",
        members=tuple(_member(index, *told) for index, told in enumerate(zip(item.configs, item.weights, strict=True))),
        label_names=prepared.label_names,
        label_values=prepared.label_values,
        preprocessing=prepared.preprocessing,
        winners="",
        prepared=prepared.content,
        locked_cases=len(prepared.splits.locked),
    )
    with tempfile.TemporaryDirectory() as folder:  # not a calibrated package
        package = Package(Path(folder), manifest, cache_bytes=0)
    native = native_image(prepared, item.case)
    # A first reading brings in libraries, whose pages are no maps: of a small image, that leaves no room for maps.
    thin = tuple(slice(None, None, max(1, n // THIN)) for n in native.native_shape)
    read_case(package, replace(native, array=native.array[:, *thin].copy()), "cpu", case_id=item.case)
    before = start_peak(torch.device("cpu"))
    read_case(package, native, "cpu", case_id=item.case)
    return max(0, peak_memory(torch.device("cpu")) - before)


def native_image(prepared: Prepared, case_id: str) -> NativeImage:
    """Return an image in the grid of a case, made of what was prepared of it: as large as the user's own."""
    case = prepared.case(case_id)
    array = to_native(np.asarray(open_case(prepared, case).image), case.native_shape, prepared.preprocessing)
    return NativeImage(array=array, spacing=case.spacing, affine=None, dtype="float32", file_format=".nii.gz")


def _member(index: int, config: TrialConfig, weights: str) -> Member:
    return Member(
        name=f"member-{index}",
        trial_id=f"member-{index}",
        architecture=config.architecture,
        variant=MAIN,
        config=config,
        weights=weights,
        sha256=str(index),
        validation_dice=0.0,
    )


def memory_tables(findings: Findings) -> tuple[Grid, ...]:
    """Return what reading a case takes by the number of members, where it was measured."""
    path = None if findings.combined is None else findings.combined / MEMORY
    if path is None or not path.is_file():
        return ()
    told = read_json(path)
    bits, map_bytes = told["voxels"] * told["foreground"] / 8, told["voxels"] * (told["foreground"] + 1) * 4
    rows = tuple(
        (count, *(f"{size / 2**20:.1f}" for size in (value, int(count) * bits)))
        for count, value in told["bytes"].items()
    )
    title = f"Peak memory of a case by members (case {told['case']}, {told['voxels']:,} voxels)"
    note = (
        f"`read_case` of a package, a new process for every number; the float map of one member has "
        f"{map_bytes / 2**20:.1f} MiB here. Of every member its mask is kept, one bit per voxel and class."
    )
    return (
        Grid(
            title,
            ("members", "MiB beyond a process that has read a small image", "of them masks in bits"),
            rows,
            note=note,
        ),
    )
