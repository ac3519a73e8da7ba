"""Extra arrays of whole cases (attention maps): computed once per case, stored beside its image, read ever after.

A file belongs to what computed it: its name carries `Extra.key`. So trials that need the same maps share them, and a
network that computes others finds none of theirs. A file of another shape than its case is computed anew.
"""

from __future__ import annotations

import logging
import os
import random
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
    needs, training = segmenter.needs, segmenter.training
    lacking = [case_id for case_id in case_ids if _missing(needs, open_case(prepared, case_id))]
    if lacking:
        logger.info("%s", _explained(needs, prepared, lacking))
    segmenter.eval()
    # trials that start together go through the cases in different orders, and each leaves out what another has stored
    for case_id in random.Random(os.getpid()).sample(lacking, len(lacking)):  # noqa: S311
        arrays = open_case(prepared, case_id)
        if not _missing(needs, arrays):
            continue
        maps = _compute(segmenter, np.array(arrays.image))
        for name in _missing(needs, arrays):
            arrays.write_extra(needs.stored_extra(name), maps[name].float().cpu().numpy())
    segmenter.train(training)
    return len(lacking)


def lacking_extras(config: TrialConfig, prepared: Prepared) -> str:
    """Return what a trial will have to compute for its cases, and why, in words; nothing where all is stored.

    The driver says it: a worker's log is not seen there.
    """
    with torch.device("meta"):
        needs = build_segmenter(config).needs
    if not needs.extras:
        return ""
    fold = prepared.splits.fold(config.fold)
    lacking = [case for case in (*fold.train, *fold.validation) if _missing(needs, open_case(prepared, case))]
    return _explained(needs, prepared, lacking) if lacking else ""


def _explained(needs: Needs, prepared: Prepared, lacking: Sequence[str]) -> str:
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
    """Return the extras that are not stored, or not in the shape of the case."""
    spatial = arrays.image.shape[1:]
    missing = []
    for name, extra in needs.extras.items():
        stored = needs.stored_extra(name)
        if not arrays.has_extra(stored) or arrays.read_extra(stored).shape != (extra.channels, *spatial):
            missing.append(name)
    return missing


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
