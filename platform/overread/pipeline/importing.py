"""Readings of other tools as members: checked, hashed and measured before they join, found again when cases are read.

A folder of nnU-Net, MONAI, MIST, TotalSegmentator or a person (`data.readings`) joins an ensemble without training. All
its readings must fit the data: other labels, or geometry that its image does not share, are refused before anything is
written. A case without a reading is no mistake: there the member counts as failed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overread.data.hashing import file_sha256
from overread.data.prepare import MapCases
from overread.data.readings import files_of, find_readings, grid_of, read_reading, reading_name
from overread.data.store import open_case
from overread.errors import UserError
from overread.jsonio import fingerprint
from overread.metrics.overlap import case_dice
from overread.records import ImportedMember, Manifest, Prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadingTask:
    """One reading to check, and to measure where its truth is given."""

    case: str
    path: str
    image: str
    """First image file of the case: its grid."""
    label_names: tuple[str, ...]
    label_values: tuple[int, ...]
    truth: str | None = None


@dataclass(frozen=True)
class Checked:
    """What a check found: a problem, or the hash of the reading and its Dice (None without truth)."""

    case: str
    problem: str = ""
    sha256: str = ""
    dice: float | None = None


def import_members(
    prepared: Prepared,
    images: Mapping[str, Sequence[str]],
    folders: Mapping[str, Path],
    map_cases: MapCases,
    *,
    fold: int,
) -> tuple[ImportedMember, ...]:
    """Check the folders against all cases of the data set and measure them on the validation cases of `fold`.

    Args:
        prepared: The data set.
        images: Image files by case.
        folders: Folder of readings by member name.
        map_cases: Runs the checks.
        fold: Whose cases are validation cases; `ALL_FOLDS`: there are none.

    Raises:
        UserError: A folder without readings of these cases, or readings that do not fit them; one line a member.

    """
    validation = set(prepared.splits.fold(fold).validation)
    cases = [case.id for case in prepared.cases]
    members, problems = [], list[str]()
    for name, folder in folders.items():
        found = find_readings(folder, cases, prepared.label_names)
        tasks = [
            ReadingTask(
                case=case,
                path=str(path.resolve()),
                image=images[case][0],
                label_names=prepared.label_names,
                label_values=prepared.label_values,
                truth=str(open_case(prepared, case).folder / "truth.npy") if case in validation else None,
            )
            for case, path in found.items()
        ]
        checked = map_cases(check_reading, tasks, f"Checking {name}")
        problems += folder_problems(name, folder, checked)
        dices = [result.dice for result in checked if result.dice is not None]
        if len(found) < len(cases):
            log.warning("member %s has no reading of %d of %d cases", name, len(cases) - len(found), len(cases))
        members.append(
            ImportedMember(
                name=name,
                folder=str(folder.resolve()),
                sha256=fingerprint({result.case: result.sha256 for result in checked}),
                cases=len(found),
                validation_dice=float(np.mean(dices)) if dices else None,
            )
        )
    if problems:
        raise UserError(*problems)
    return tuple(members)


def check_names(imported: Iterable[str], networks: Iterable[str], place: str) -> None:
    """Raise `UserError` for an imported member with a bad name, or that of a network of a run or package (`place`).

    Asked before any reading is looked at, which may take long.
    """
    names = {reading_name(name) for name in imported}
    if double := sorted(names & set(networks)):
        raise UserError(f"--member must have a name of its own, but {double[0]} is a network of the {place}: rename it")


def check_all_read(readings: Iterable[str], cases: Iterable[str]) -> None:
    """Raise `UserError` where no member has read some of the cases: without networks nobody else does.

    Args:
        readings: Cases that a member has read.
        cases: Cases that will be read.

    """
    wanted = list(cases)
    missing = sorted(set(wanted) - set(readings))
    if missing:
        raise UserError(
            f"some member must have a reading of every case, but of {len(wanted)} cases {len(missing)} have none; the "
            f"first is {missing[0]}: add it to a folder, or a member that has it"
        )


def check_frozen(members: Iterable[ImportedMember], prepared: Prepared) -> None:
    """Raise `UserError` for a member whose readings are no longer those that were frozen."""
    cases = [case.id for case in prepared.cases]
    for member in members:
        found = find_readings(Path(member.folder), cases, prepared.label_names)
        if fingerprint({case: _sha256(path) for case, path in found.items()}) != member.sha256:
            raise UserError(
                f"readings of member {member.name} in {member.folder} must be those that were frozen with the winners, "
                "but they have changed: restore them, or make the ensemble again"
            )


def readings_of(members: Iterable[ImportedMember], prepared: Prepared) -> dict[str, dict[str, str]]:
    """Return by case, of every member that has read it, the file or folder of its reading."""
    cases = [case.id for case in prepared.cases]
    return by_case({m.name: find_readings(Path(m.folder), cases, prepared.label_names) for m in members})


def by_case(found: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, str]]:
    """Turn readings by member and case into readings by case and member, as absolute paths."""
    turned: dict[str, dict[str, str]] = {}
    for name, paths in found.items():
        for case, path in paths.items():
            turned.setdefault(case, {})[name] = str(path.resolve())
    return turned


def import_readings(
    manifest: Manifest, images: Mapping[str, Sequence[str]], folders: Mapping[str, Path], map_cases: MapCases
) -> dict[str, dict[str, str]]:
    """Return by new case the readings of the folders, checked against the images; see `import_members`.

    Every imported member of the package needs a folder; folders of other names join as guests.
    """
    lacking = [member.name for member in manifest.imported if member.name not in folders]
    if lacking:
        raise UserError(
            f"member {', '.join(lacking)} of the package must have a folder with its readings of these images, but "
            f"none was given: add --member {lacking[0]}=FOLDER"
        )
    check_names(folders, (member.name for member in manifest.members), "package")
    found, problems = {}, list[str]()
    for name, folder in folders.items():
        found[name] = find_readings(folder, images, manifest.label_names)
        tasks = [
            ReadingTask(case, str(path.resolve()), images[case][0], manifest.label_names, manifest.label_values)
            for case, path in found[name].items()
        ]
        checked = map_cases(check_reading, tasks, f"Checking {name}")
        problems += folder_problems(name, folder, checked)
    if problems:
        raise UserError(*problems)
    readings = by_case(found)
    if not manifest.members:
        check_all_read(readings, images)
    return readings


def folder_problems(name: str, folder: Path, checked: Sequence[Checked]) -> list[str]:
    """Return what is wrong with a folder of readings, one line at the most: the first problem and how many there are.

    >>> folder_problems("nnunet", Path("masks"), [Checked("a"), Checked("b", problem="x.png: truncated")])
    ['member nnunet: readings must fit the data, but 1 of 2 do not; the first is case b: x.png: truncated']
    """
    if not checked:
        return [f"member {name}: {folder} must hold readings named as the cases, but holds none: check the path"]
    wrong = [result for result in checked if result.problem]
    if not wrong:
        return []
    return [
        f"member {name}: readings must fit the data, but {len(wrong)} of {len(checked)} do not; the first is case "
        f"{wrong[0].case}: {wrong[0].problem}"
    ]


def check_reading(task: ReadingTask) -> Checked:
    """Read one reading as the ensemble will."""
    try:
        found = read_reading(Path(task.path), grid_of(Path(task.image)), task.label_names, task.label_values)
        digest = _sha256(Path(task.path))
    except UserError as error:
        return Checked(task.case, problem="; ".join(error.problems))
    dice = None
    if task.truth is not None:
        truth = np.load(task.truth, allow_pickle=False)
        dice = case_dice(found.argmax(0).astype(np.uint8), truth, len(task.label_names)).mean
    return Checked(task.case, sha256=digest, dice=dice)


def _sha256(path: Path) -> str:
    return fingerprint([(file.name, file_sha256(file)) for file in files_of(path)])
