"""Extra arrays of whole cases (attention maps): computed once per case, stored beside its image, read ever after.

A file belongs to what computed it: its name carries `Extra.key`. So trials that need the same maps share them, and a
network that computes others finds none of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from overread.architectures.contract import Segmenter
from overread.data.store import CaseArrays, open_case
from overread.records import Needs, Prepared


def ensure_extras(segmenter: Segmenter, prepared: Prepared, case_ids: Sequence[str]) -> None:
    """Compute and store what `segmenter.needs.extras` names and the cases lack, in evaluation mode."""
    needs, training = segmenter.needs, segmenter.training
    segmenter.eval()
    for case_id in case_ids:
        arrays = open_case(prepared, case_id)
        missing = _missing(needs, arrays)
        if missing:
            maps = _compute(segmenter, np.array(arrays.image))
            for name in missing:
                arrays.write_extra(needs.stored_extra(name), maps[name].float().cpu().numpy())
    segmenter.train(training)


def stored_extras(needs: Needs, prepared: Prepared, case_id: str) -> dict[str, Tensor] | None:
    """Return the extras (channels, D, H, W) of a case by name; None if one is not stored."""
    arrays = open_case(prepared, case_id)
    if _missing(needs, arrays):
        return None
    return {name: torch.from_numpy(np.array(arrays.read_extra(needs.stored_extra(name)))) for name in needs.extras}


def _missing(needs: Needs, arrays: CaseArrays) -> list[str]:
    return [name for name in needs.extras if not (arrays.folder / f"extra_{needs.stored_extra(name)}.npy").is_file()]


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
