"""What a user should know of a training before it starts. The driver says it: a worker's log is not seen there."""

from __future__ import annotations

import numpy as np
import torch

from overread.architectures.contract import build_segmenter
from overread.data.store import open_case
from overread.records import Prepared, TrialConfig
from overread.training.extras import lacking_extras


def notes(config: TrialConfig, prepared: Prepared) -> tuple[str, ...]:
    """Return what a training will compute first, and what it makes of cases with a single annotation, in words."""
    return tuple(line for line in (lacking_extras(config, prepared), lone_annotations(config, prepared)) if line)


def lone_annotations(config: TrialConfig, prepared: Prepared) -> str:
    """Return in how many cases fewer than two annotations mark anything; nothing where all have two, or none need them.

    All cases that train or validate are counted, so that the folds of a data set say the same.
    """
    with torch.device("meta"):
        needs = build_segmenter(config).needs
    if not needs.annotators:
        return ""
    fold = prepared.splits.fold(config.fold)
    cases = dict.fromkeys((*fold.train, *fold.validation))
    marked = (np.asarray(open_case(prepared, case).labels).any((1, 2, 3)) for case in cases)
    alone = sum(int(drawn.sum()) < 2 for drawn in marked)
    if not alone:
        return ""
    return (
        f"{alone} of {len(cases)} cases of '{prepared.dataset}' have fewer than two annotations that mark anything: in "
        "training one alone is taken for what all say, none for an empty mask"
    )
