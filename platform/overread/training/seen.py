"""What the weights that a training starts from, or looks through, have seen: cases held out here must not be among it.

A pretraining's record (`pretrain.json`) lies beside its weights and tells it, with what the weights had seen that it
started from. Weights that lie alone, such as those of others, tell nothing and pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from overread.data.slices import Seen, mark, pretraining_cases
from overread.errors import UserError
from overread.jsonio import read_json
from overread.records import Prepared

RECORD = "pretrain.json"


def read_seen(weights: Path) -> tuple[Seen, ...]:
    """Return what weights have seen by the record beside them, their own data first; without one nothing."""
    path = weights.parent / RECORD
    if not path.is_file():
        return ()
    found = read_json(path)
    own = {name: found[name] for name in ("dataset", "cases", "groups", "marks") if name in found}
    return (Seen.from_json(own), *(Seen.from_json(earlier) for earlier in found.get("earlier", ())))


def check_unseen(weights: Path, prepared: Prepared, fold: int) -> None:
    """Raise `UserError` if weights have seen what a training on a fold holds out.

    Held out are locked, calibration and validation cases, and whatever is of their groups (or near-duplicate to them,
    where unlabelled images are prepared too).
    """
    seen = read_seen(weights)
    if not seen:
        return
    used = {case.id for case in pretraining_cases(prepared, fold)}
    held_out = [case for case in (*prepared.cases, *prepared.unlabelled) if case.id not in used]
    marks = {mark(case) for case in (*prepared.cases, *prepared.unlabelled)}
    for part in seen:
        if part.dataset != prepared.dataset and marks.isdisjoint(part.marks):
            continue  # of other data
        cases = _common(part.cases, (case.id for case in held_out))
        groups = _common(part.groups, (case.group for case in held_out))
        if cases or groups:
            what = f"{len(cases)} of them (such as {cases[0]})" if cases else f"other images of group {groups[0]}"
            raise UserError(
                f"weights {weights} must not have seen cases that are held out here, but they were trained on {what}: "
                "pretrain with the same --seed, --folds and groups"
            )


def _common(seen: Iterable[str], held_out: Iterable[str]) -> list[str]:
    return sorted(set(seen).intersection(held_out))
