"""`Slices`: single slices of prepared images without labels, for self-supervised training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from overread.data.store import open_case
from overread.errors import UserError
from overread.jsonio import JsonRecord, fingerprint
from overread.records import Prepared, PreparedCase

if TYPE_CHECKING:
    from torch import Tensor


def pretraining_cases(prepared: Prepared, fold: int) -> tuple[PreparedCase, ...]:
    """Return the training cases of a fold, and the unlabelled ones apart from all other labelled cases.

    Apart: in no group of theirs, not near-duplicates of them, nor so of an unlabelled case that is. So nothing of a
    locked, calibration or validation group is seen before it is read.
    """
    train = set(prepared.splits.fold(fold).train)
    held_out = {case.id: case.group for case in prepared.cases if case.id not in train}
    free = {case.id: case for case in prepared.unlabelled}
    while reached := _reached(prepared, held_out, free):
        held_out |= {case: free.pop(case).group for case in reached}
    return tuple(case for case in prepared.cases if case.id in train) + tuple(free.values())


def _reached(prepared: Prepared, held_out: Mapping[str, str], free: Mapping[str, PreparedCase]) -> set[str]:
    """Return the free cases in a held-out group, or near-duplicate to a held-out case."""
    groups = set(held_out.values())
    both_ways = (*prepared.near_duplicates, *((b, a) for a, b in prepared.near_duplicates))
    copies = {a for a, b in both_ways if b in held_out}
    return {case.id for case in free.values() if case.group in groups or case.id in copies}


@dataclass(frozen=True, kw_only=True)
class Seen(JsonRecord):
    """Images of one data set that something was trained on."""

    dataset: str
    """Its name then."""
    cases: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """Their groups (patients); none: not told."""
    marks: tuple[str, ...] = ()
    """Their `mark`s, which know a data set under another name; none: not told."""

    @classmethod
    def of(cls, dataset: str, cases: Sequence[PreparedCase]) -> Seen:
        """Return the record of cases of a prepared data set."""
        return cls(
            dataset=dataset,
            cases=tuple(case.id for case in cases),
            groups=tuple(sorted({case.group for case in cases})),
            marks=tuple(mark(case) for case in cases),
        )


def mark(case: PreparedCase) -> str:
    """Return a hash of a case's name, native shape and spacing: the same however large it was prepared."""
    return fingerprint([case.id, case.native_shape, case.spacing])[:16]


def content_of(prepared: Prepared, cases: Sequence[PreparedCase]) -> str:
    """Return the hash of the slices of some cases."""
    return fingerprint([prepared.content, *(case.id for case in cases)])


class Slices:
    """The slices of some cases, one after another; every access maps the file of its case anew."""

    def __init__(self, prepared: Prepared, cases: Sequence[PreparedCase]) -> None:
        if not cases:
            raise UserError("self-supervised training must have at least one case, but got none: check the splits")
        self._arrays = [open_case(prepared, case) for case in cases]
        self._ends = np.cumsum([case.shape[0] for case in cases])
        self.seen = Seen.of(prepared.dataset, cases)
        self.content = content_of(prepared, cases)
        """Hash of the data, that a resumed training compares."""

    def __len__(self) -> int:
        return int(self._ends[-1])

    def load(self, indices: Sequence[int]) -> list[Tensor]:
        """Return slices (C, H, W) float32, of any sizes, on the CPU."""
        return [self._slice(index) for index in indices]

    def _slice(self, index: int) -> Tensor:
        import torch

        case = int(np.searchsorted(self._ends, index, side="right"))
        image = self._arrays[case].image
        return torch.from_numpy(np.array(image[:, index - int(self._ends[case])]))
