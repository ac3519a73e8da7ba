"""Weights that others trained: read without running code, and loaded name by name.

Files: `.safetensors`, or PyTorch's own (`.pth`, `.pt`, `.tar`), which are read with `weights_only=True` only: a file
that holds anything but tensors and plain values is refused. Of usual containers ("state_dict", "model", "teacher",
"student") the state dict is taken, of names the usual prefixes ("module.", "backbone.", "model.") are dropped.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from overread.architectures.contract import Pretrained, Segmenter, build_segmenter
from overread.data.hashing import file_sha256
from overread.errors import UserError
from overread.records import TrialConfig

PYTORCH = (".pth", ".pt", ".tar")
CONTAINERS = ("teacher", "student", "state_dict", "model")
"""Keys that hold the state dict, the wanted one first: DINO's full checkpoints have a teacher and a student."""
PREFIXES = ("module.", "backbone.", "model.")
HEADS = ("head.", "fc.", "classifier.")
"""Beginnings of names that belong to another task than segmentation."""
RGB = 3
SHOWN = 3
"""Names of each kind that a message lists."""
S = TypeVar("S", bound=Segmenter)


def load_pretrained(segmenter: S) -> S:
    """Load the files that a Segmenter's options name (`Segmenter.pretrained`) and return it."""
    for wanted in segmenter.pretrained():
        load_into(wanted.part, _read_wanted(wanted), ignore=wanted.ignore, rename=wanted.rename)
    return segmenter


def check_pretrained(configs: Iterable[TrialConfig]) -> None:
    """Raise `UserError` for a file that configs name and that is missing, another one, or of another network.

    The driver asks before anything starts: a worker would fail one by one. Nothing is loaded.
    """
    fitted = set()
    for config in configs:
        with torch.device("meta"):
            named = build_segmenter(config).pretrained()
        for wanted in named:
            shapes = tuple((name, value.shape) for name, value in wanted.part.state_dict().items())
            if (wanted.path, wanted.sha256, shapes) not in fitted:
                fitting(wanted.part, _read_wanted(wanted), ignore=wanted.ignore, rename=wanted.rename)
                fitted.add((wanted.path, wanted.sha256, shapes))


def _read_wanted(wanted: Pretrained) -> dict[str, Tensor]:
    """Return the tensors of the very file that a Segmenter names, by name."""
    path = Path(wanted.path)
    check_sha256(path, wanted.sha256)
    state = read_weights(path)
    return with_channels(state, wanted.part, wanted.rename) if wanted.any_channels else state


def check_sha256(path: Path, sha256: str) -> None:
    """Raise `UserError` unless a weights file is there and has the hash that is told of it."""
    found = file_sha256(path)
    if found != sha256:
        raise UserError(
            f"weights {path} must have the SHA-256 {sha256[:12]}... of the config, but have {found[:12]}...: "
            "restore the file or name the new hash"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, on the CPU.

    Raises:
        UserError: The file is missing, of another kind, broken, holds no state dict, or could run code when loaded.

    """
    if not path.is_file():
        raise UserError(f"weights {path} must exist, but they do not: check the path")
    if path.suffix == ".safetensors":
        try:
            return _without_prefixes(load_file(path), path)
        except SafetensorError as error:
            raise _unreadable(path, error) from None
    if path.suffix in PYTORCH:
        return _without_prefixes(_state_dict(_load_pytorch(path), path), path)
    raise UserError(f"weights must be .safetensors, {', '.join(PYTORCH)}, but got {path}: convert them")


def _load_pytorch(path: Path) -> Any:
    # argparse.Namespace is a plain holder of values: DINO's full checkpoints keep their settings in one
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            what = f"'{named[1]}'" if named else "other objects"
            raise UserError(
                f"weights {path} must hold tensors only, but hold {what}: loading could run code, so the file is "
                "refused; ask for its state dict, best as .safetensors"
            ) from None
        except Exception as error:  # a broken file fails in many ways
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    problem = (str(error).splitlines() or [""])[0]
    return UserError(f"weights {path} must be readable, but reading failed ({problem}): get the file again")


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a loaded file, out of its containers."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"weights {path} must hold a state dict (names and tensors), but do not: export it from them")
    return {str(name): value for name, value in content.items()}


def _without_prefixes(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    stripped = {_without_prefix(name): value for name, value in state.items()}
    if len(stripped) < len(state):
        raise UserError(f"weights {path} must be of one network, but names repeat without {PREFIXES}: split the file")
    return stripped


def _without_prefix(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def _same(name: str) -> str:
    return name


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    ignore: tuple[str, ...] = HEADS,
    rename: Callable[[str], str] = _same,
) -> None:
    """Copy `state` into the parameters and buffers of `module`, all or nothing; arguments as in `fitting`."""
    module.load_state_dict(fitting(module, state, ignore=ignore, rename=rename), strict=False)


def fitting(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    ignore: tuple[str, ...] = HEADS,
    rename: Callable[[str], str] = _same,
) -> dict[str, Tensor]:
    """Return those of `state` that `module` takes, by its own names. Only names and shapes of the module are looked at.

    Args:
        module: What is to get the weights.
        state: Tensors by name, as `read_weights` gives them.
        ignore: Beginnings of names of `state` that are left out.
        rename: From a name in `module` to its name in `state`.

    Raises:
        UserError: Names are missing or unexpected, or shapes differ; each kind is one line with its first names.
            BatchNorm's `num_batches_tracked` may be missing.

    """
    own = {rename(name): (name, value) for name, value in module.state_dict().items()}
    given = {name: value for name, value in state.items() if name in own or not name.startswith(ignore)}
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    shapes = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name][1].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name][1].shape
    ]
    kinds = {"lack": missing, "have unexpected": unexpected, "have in other shapes": shapes}
    problems = [f"they {verb} {_first(names)}" for verb, names in kinds.items() if names]
    if problems:
        what = f"weights must be those of a {type(module).__name__}, but"
        raise UserError(*(f"{what} {problem}" for problem in problems))
    return {own[name][0]: value for name, value in given.items()}


def with_channels(
    state: Mapping[str, Tensor], module: nn.Module, rename: Callable[[str], str] = _same
) -> dict[str, Tensor]:
    """Return `state` with kernels (O, 3, *k) fitted to those of n channels (O, n, *k) in `module`, others as they are.

    Each new channel gets 1 / n of the sum over red, green and blue: n equal channels answer as a grey RGB image does.
    """
    fitted = dict(state)
    for name, own in module.state_dict().items():
        given = state.get(rename(name))
        if given is not None and given.ndim == own.ndim > 2 and given.shape[1] == RGB != own.shape[1]:
            channels = own.shape[1]
            fitted[rename(name)] = given.sum(1, keepdim=True).expand(-1, channels, *given.shape[2:]) / channels
    return fitted


def _first(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
