"""Pretrained teachers that a search or a training is told of: read, checked against its data, put into configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overread.architectures import ARCHITECTURES
from overread.architectures.attention_maps import AttentionOptions
from overread.errors import UserError
from overread.records import Prepared, TrialConfig
from overread.training.pretraining import attention_options

OPTION = "attention"
"""`AttentionOptions` of architectures that take maps."""


def read_teachers(folders: Sequence[str], prepared: Prepared, fold: int) -> tuple[dict[str, Any], ...]:
    """Return the `attention` options by the teachers of pretraining folders, as JSON.

    Raises `UserError` for a folder without a pretraining, or a teacher that has seen held-out cases.
    """
    return tuple(attention_options(Path(folder), prepared, fold).to_json() for folder in folders)


def takes_maps(architecture: str) -> bool:
    """Return whether an architecture takes attention maps."""
    return isinstance(getattr(ARCHITECTURES[architecture].options(), OPTION, None), AttentionOptions)


def with_teacher(config: TrialConfig, folder: Path, prepared: Prepared) -> TrialConfig:
    """Return a config whose maps are by the teacher of a pretraining's folder."""
    if not takes_maps(config.architecture):
        raise UserError(f"a teacher must serve attention maps, but {config.architecture} takes none: leave it out")
    (options,) = read_teachers([str(folder)], prepared, config.fold)
    return replace(config, options=config.options | {OPTION: options})
