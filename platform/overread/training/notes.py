"""What a user should know of a training before it starts. The driver says it: a worker's log is not seen there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from overread.architectures.contract import build_segmenter
from overread.data.store import open_case
from overread.records import Prepared, TrialConfig
from overread.training.extras import lacking_extras


def notes(configs: Sequence[TrialConfig], prepared: Prepared) -> tuple[str, ...]:
    """Return what trainings will compute first, and what they make of cases with a single annotation, in words."""
    lines = (*(lacking_extras(config, prepared) for config in configs), lone_annotations(configs, prepared))
    return tuple(dict.fromkeys(line for line in lines if line))


def lone_annotations(configs: Sequence[TrialConfig], prepared: Prepared) -> str:
    """Return in how many cases fewer than two annotations mark anything; nothing where all have two, or none need them.

    All cases that train or validate in any of the trainings are counted, each once.
    """
    folds = [prepared.splits.fold(number) for number in dict.fromkeys(c.fold for c in configs if _needs_several(c))]
    cases = dict.fromkeys(case for fold in folds for case in (*fold.train, *fold.validation))
    marked = (np.asarray(open_case(prepared, case).labels).any((1, 2, 3)) for case in cases)
    alone = sum(int(drawn.sum()) < 2 for drawn in marked)
    if not alone:
        return ""
    return (
        f"{alone} of {len(cases)} cases of '{prepared.dataset}' have fewer than two annotations that mark anything: in "
        "training one alone is taken for what all say, none for an empty mask"
    )


def _needs_several(config: TrialConfig) -> bool:
    with torch.device("meta"):
        return build_segmenter(config).needs.annotators
