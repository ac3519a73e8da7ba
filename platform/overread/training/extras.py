"""Extra arrays of whole cases (attention maps): computed once per case, stored beside its image, read ever after.

A file belongs to what computed it: its name carries `Extra.key`. So trials that need the same maps share them, and a
network that computes others finds none of theirs. A file that is cut short, or of another shape than its case, is
computed anew. Beside each lies what computing it took.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from overread.architectures.contract import Segmenter, build_segmenter
from overread.data.store import CaseArrays, open_case
from overread.records import Needs, Prepared, TrialConfig

logger = logging.getLogger(__name__)


def ensure_extras(segmenter: Segmenter, prepared: Prepared, case_ids: Sequence[str]) -> int:
    """Compute and store what `segmenter.needs.extras` names and the cases lack, in evaluation mode.

    Return the number of cases that lacked something; the log says once what is computed and why.
    """
    needs = segmenter.needs
    lacking = lacking_cases(needs, prepared, case_ids)
    if lacking:
        logger.info("%s", explained(needs, prepared, lacking))
    # trials that start together go through the cases in different orders, and each leaves out what another has stored
    for case_id in random.Random(os.getpid()).sample(lacking, len(lacking)):  # noqa: S311
        _store_missing(segmenter, open_case(prepared, case_id))
    return len(lacking)


def case_extras(segmenter: Segmenter, prepared: Prepared, case_id: str) -> dict[str, Tensor]:
    """Return the extras (channels, D, H, W) of a case by name, for a network that reads it.

    What is not stored is computed and stored, so that the next who reads the case finds it. No label is looked at: a
    case that is held out gives nothing away.
    """
    _store_missing(segmenter, open_case(prepared, case_id))
    stored = stored_extras(segmenter.needs, prepared, case_id)
    assert stored is not None  # noqa: S101  (just stored)
    return stored


def _store_missing(segmenter: Segmenter, arrays: CaseArrays) -> None:
    """Compute what a case lacks, in evaluation mode, and store it with the seconds that it took."""
    if not _missing(segmenter.needs, arrays):
        return
    training, started = segmenter.training, time.perf_counter()
    segmenter.eval()
    maps = {name: values.float().cpu().numpy() for name, values in _compute(segmenter, np.array(arrays.image)).items()}
    segmenter.train(training)
    seconds = time.perf_counter() - started
    for name in _missing(segmenter.needs, arrays):
        arrays.write_extra(segmenter.needs.stored_extra(name), maps[name], seconds / len(maps))


def lacking_extras(config: TrialConfig, prepared: Prepared) -> str:
    """Return what a trial will have to compute for its cases, and why, in words; nothing where all is stored.

    The driver says it: a worker's log is not seen there.
    """
    with torch.device("meta"):
        needs = build_segmenter(config).needs
    if not needs.extras:
        return ""
    fold = prepared.splits.fold(config.fold)
    lacking = lacking_cases(needs, prepared, (*fold.train, *fold.validation))
    return explained(needs, prepared, lacking) if lacking else ""


def lacking_cases(needs: Needs, prepared: Prepared, case_ids: Sequence[str]) -> list[str]:
    """Return the cases that lack some of the extras."""
    return [case_id for case_id in case_ids if _missing(needs, open_case(prepared, case_id))]


def extras_seconds(needs: Needs, prepared: Prepared, case_ids: Sequence[str]) -> list[float]:
    """Return what computing the stored extras took, one number for each case of which it is told."""
    found = []
    for arrays in (open_case(prepared, case_id) for case_id in case_ids):
        each = [arrays.extra_seconds(needs.stored_extra(name)) for name in needs.extras]
        known = [seconds for seconds in each if seconds is not None]
        found += [sum(known)] if known and len(known) == len(each) else []
    return found


def explained(needs: Needs, prepared: Prepared, lacking: Sequence[str]) -> str:
    """Return what is computed for the cases that lack something, and whether others or misfits are stored."""
    names = sorted(needs.extras)
    others = [name for name in names if any(open_case(prepared, lacking[0]).folder.glob(f"extra_{name}-*.npy"))]
    reason = "those stored are of other weights, settings or data" if others else "none are stored yet"
    return f"computing {', '.join(names)} of {len(lacking)} cases of '{prepared.dataset}': {reason}"


def stored_extras(needs: Needs, prepared: Prepared, case_id: str) -> dict[str, Tensor] | None:
    """Return the extras (channels, D, H, W) of a case by name; None if one is not stored."""
    arrays = open_case(prepared, case_id)
    if _missing(needs, arrays):
        return None
    return {name: torch.from_numpy(np.array(arrays.read_extra(needs.stored_extra(name)))) for name in needs.extras}


def _missing(needs: Needs, arrays: CaseArrays) -> list[str]:
    """Return the extras that are not stored whole and in the shape of the case."""
    spatial = arrays.image.shape[1:] if needs.extras else ()
    return [
        name
        for name, extra in needs.extras.items()
        if _stored_shape(arrays, needs.stored_extra(name)) != (extra.channels, *spatial)
    ]


def _stored_shape(arrays: CaseArrays, stored: str) -> tuple[int, ...] | None:
    """Return the shape of a stored extra; None: there is none, or its file is cut short."""
    if not arrays.has_extra(stored):
        return None
    try:
        return arrays.read_extra(stored).shape
    except (ValueError, EOFError):  # NumPy's words for a file that ends before its header says
        return None


def _compute(segmenter: Segmenter, image: np.ndarray) -> Mapping[str, Tensor]:
    """Return all extras of an image (C, D, H, W), computed where the network is."""
    place = next((parameter.device for parameter in segmenter.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        maps = segmenter.case_inputs(torch.from_numpy(image).to(place))
    for name, extra in segmenter.needs.extras.items():
        wanted = (extra.channels, *image.shape[1:])
        found = tuple(maps[name].shape) if name in maps else None
        if found != wanted:
            raise ValueError(f"case_inputs must give '{name}' of shape {wanted}, but gave {found}")
    return maps
