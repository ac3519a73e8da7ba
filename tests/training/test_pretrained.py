"""Weights files are read without running code, and what does not fit is named."""

from __future__ import annotations

import argparse
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from overread.architectures import ARCHITECTURES
from overread.architectures.contract import Pretrained, build_segmenter
from overread.architectures.encoders import build_encoder
from overread.architectures.vit import ViT, ViTOptions, official_name
from overread.data.hashing import file_sha256
from overread.errors import UserError
from overread.records import TrialConfig
from overread.testing.tiny import TinySegmenter, tiny_architecture, tiny_config
from overread.training.pretrained import check_pretrained, load_into, load_pretrained, read_weights, with_channels


@dataclass
class Malicious:
    """Runs a command when a plain pickle reader meets it."""

    marker: Path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


STATE = {"conv.weight": torch.arange(4.0), "bn.bias": torch.ones(2)}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar"])
@pytest.mark.parametrize("container", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_pytorch_files_and_their_usual_containers(tmp_path: Path, suffix: str, container: Any) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(container(STATE), path)
    assert same(read_weights(path), STATE)


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert same(read_weights(tmp_path / "weights.safetensors"), STATE)


def test_the_teacher_of_a_full_dino_checkpoint_without_its_prefixes(tmp_path: Path) -> None:
    teacher = {f"backbone.{name}": value for name, value in STATE.items()} | {"head.mlp.0.bias": torch.zeros(1)}
    student = {f"module.backbone.{name}": -value for name, value in STATE.items()}
    settings = argparse.Namespace(arch="deit_small", patch_size=16)
    content = {"student": student, "teacher": teacher, "epoch": 300, "args": settings, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "full.pth")
    assert same(read_weights(tmp_path / "full.pth"), STATE | {"head.mlp.0.bias": torch.zeros(1)})
    del content["teacher"]
    torch.save(content, tmp_path / "full.pth")
    assert same(read_weights(tmp_path / "full.pth"), {name: -value for name, value in STATE.items()})


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, write: Any) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "executed"
    write({"state_dict": STATE, "extra": Malicious(marker)}, path)
    with pytest.raises(UserError, match="could run code, so the file is refused") as caught:
        read_weights(path)
    assert len(caught.value.problems) == 1
    assert not marker.exists()
    with path.open("rb") as stream:  # the file is what it is said to be: a plain reader runs it
        torch.load(stream, weights_only=False) if write is torch.save else pickle.load(stream)  # noqa: S301
    assert marker.exists()


def test_a_pickled_module_is_refused_by_its_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"'torch\.nn\.modules\.linear\.Linear'"):
        read_weights(tmp_path / "module.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no weights file"])
def test_broken_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"must (be readable|hold tensors)"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "hold a state dict"),
        ([torch.ones(1)], "hold a state dict"),
        ({}, "hold a state dict"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "names repeat"),
    ],
)
def test_files_without_one_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / "weights.pth")


def test_missing_files_and_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must exist"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(UserError, match=r"must be \.safetensors, \.pth"):
        read_weights(tmp_path / "weights.npz")


VGG16 = {"features.0": (64, 3), "features.3": (64, 64), "features.7": (128, 64), "features.10": (128, 128)}
"""Convolutions of the first two stages of torchvision's vgg16_bn; the batch norm follows each."""
RESNET18 = {
    "conv1": (64, 3, 7),
    "layer1.0.conv1": (64, 64, 3),
    "layer1.0.conv2": (64, 64, 3),
    "layer1.1.conv1": (64, 64, 3),
    "layer1.1.conv2": (64, 64, 3),
    "layer2.0.conv1": (128, 64, 3),
    "layer2.0.conv2": (128, 128, 3),
    "layer2.0.downsample.0": (128, 64, 1),
    "layer2.1.conv1": (128, 128, 3),
    "layer2.1.conv2": (128, 128, 3),
}
"""Of torchvision's resnet18 to layer2; norms are named bn1, bn2 and downsample.1."""


def norm(channels: int) -> dict[str, Tensor]:
    return {
        "weight": torch.rand(channels),
        "bias": torch.rand(channels),
        "running_mean": torch.rand(channels),
        "running_var": torch.rand(channels),
    }


def torchvision_state(name: str) -> dict[str, Tensor]:
    """Return weights as torchvision names them; its old files have no num_batches_tracked."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    if name == "vgg16":
        for layer, (outputs, inputs) in VGG16.items():
            after = f"features.{int(layer.split('.')[1]) + 1}"
            state |= {f"{layer}.weight": torch.rand(outputs, inputs, 3, 3), f"{layer}.bias": torch.rand(outputs)}
            state |= {f"{after}.{key}": value for key, value in norm(outputs).items()}
        return state | {"classifier.0.weight": torch.rand(2, 2), "classifier.0.bias": torch.rand(2)}
    for layer, (outputs, inputs, kernel) in RESNET18.items():
        after = layer.replace("downsample.0", "downsample.1").replace("conv", "bn")
        state |= {f"{layer}.weight": torch.rand(outputs, inputs, kernel, kernel)}
        state |= {f"{after}.{key}": value for key, value in norm(outputs).items()}
    return state | {"fc.weight": torch.rand(2, 2), "fc.bias": torch.rand(2)}


@pytest.mark.parametrize(("name", "levels", "last"), [("vgg16", 2, "features.11.bias"), ("resnet18", 3, "bn1.bias")])
def test_torchvisions_weights_fit_our_encoders(name: str, levels: int, last: str) -> None:
    encoder, state = build_encoder(name, in_channels=3, width=64, levels=levels), torchvision_state(name)
    load_into(encoder, state)
    found = encoder.state_dict()
    assert torch.equal(found[last], state[last])
    assert all(torch.equal(found[key], value) for key, value in state.items() if not key.startswith(("fc", "class")))
    assert len(state) - 2 == len([key for key in found if not key.endswith("num_batches_tracked")])


def test_levels_that_are_not_built_are_named_or_ignored() -> None:
    encoder, state = build_encoder("resnet18", in_channels=3, width=64, levels=2), torchvision_state("resnet18")
    with pytest.raises(UserError, match=r"unexpected layer2\.0\.conv1\.weight, layer2.* and 22 more"):
        load_into(encoder, state)
    load_into(encoder, state, ignore=("fc.", "layer2."))
    assert torch.equal(encoder.state_dict()["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize("name", ["unet_sharp", "mask_rcnn"])
def test_an_encoder_starts_from_a_file_that_its_options_name(tmp_path: Path, name: str) -> None:
    encoder = build_encoder("resnet50", in_channels=3, width=64, levels=5)
    state = {key: torch.rand_like(value, dtype=torch.float32) for key, value in encoder.state_dict().items()}
    torch.save(state | {"fc.weight": torch.rand(2, 2)}, tmp_path / "imagenet.pth")
    weights = {"path": str(tmp_path / "imagenet.pth"), "sha256": file_sha256(tmp_path / "imagenet.pth")}
    options = {"encoder": "resnet50", "encoder_weights": weights} | ({"level": 3} if name == "unet_sharp" else {})
    options["width"] = 32 if name == "unet_sharp" else 64  # UNet#'s width is that of its finest level
    built = ARCHITECTURES[name].build(options, in_channels=1, classes=2)
    found = load_pretrained(built).state_dict()
    place = "network.encoder" if name == "unet_sharp" else "stages.encoder"
    assert torch.equal(found[f"{place}.layer3.5.conv3.weight"], state["layer3.5.conv3.weight"])
    assert (f"{place}.layer4.0.conv1.weight" in found) == (name == "mask_rcnn")  # left in the file where not built
    grey = torch.rand(1, 1, 8, 8)
    answer = torch.nn.functional.conv2d(grey, found[f"{place}.conv1.weight"])
    torch.testing.assert_close(answer, torch.nn.functional.conv2d(grey.expand(1, 3, 8, 8), state["conv1.weight"]))
    with pytest.raises(
        UserError, match=r"encoder_weights must be for one of vgg16, .* but the encoder is 'double_conv'"
    ):
        ARCHITECTURES[name].options.from_json(options | {"encoder": "double_conv"})


def test_channels_are_fitted_by_hand() -> None:
    state = {"weight": torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1), "bias": torch.ones(1)}
    fitted = with_channels(state, nn.Conv2d(2, 1, 1))
    assert fitted["weight"].flatten().tolist() == [4.5, 4.5] and torch.equal(fitted["bias"], state["bias"])
    assert torch.equal(with_channels(state, nn.Conv2d(3, 1, 1))["weight"], state["weight"])


def test_another_architecture_is_refused_by_names_and_shapes_and_changes_nothing() -> None:
    vit = ViT(ViTOptions(size="tiny", depth=1))
    before = vit.pos_embed.clone()
    state = {official_name(name): torch.zeros_like(value) for name, value in vit.state_dict().items()}
    load_into(ViT(ViTOptions(size="tiny", depth=1)), state, rename=official_name)  # this one fits
    del state["cls_token"], state["norm.weight"], state["norm.bias"], state["blocks.0.norm1.bias"]
    state |= {"pos_embed": torch.zeros(1, 785, 192), "blocks.1.norm1.weight": torch.zeros(192)}
    with pytest.raises(UserError) as caught:
        load_into(vit, state, rename=official_name)
    lack, unexpected, shapes = caught.value.problems
    assert (
        lack == "weights must be those of a ViT, but they lack cls_token, blocks.0.norm1.bias, norm.weight and 1 more"
    )
    assert unexpected.endswith("they have unexpected blocks.1.norm1.weight")
    assert shapes.endswith("they have in other shapes pos_embed (1, 785, 192) instead of (1, 197, 192)")
    assert torch.equal(vit.pos_embed, before)


class NamedSegmenter(TinySegmenter):
    """Names a file for its head."""

    file = ("", "")

    def pretrained(self) -> tuple[Pretrained, ...]:
        return (Pretrained(self.head, *self.file, rename=lambda name: f"classes.{name}"),)


def test_a_training_starts_from_the_files_that_a_segmenter_names(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_file({"classes.weight": torch.full((2, 4, 1, 1), 7.0), "classes.bias": torch.zeros(2)}, path)
    with tiny_architecture(NamedSegmenter, "named"):
        segmenter = build_segmenter(tiny_config(architecture="named"))
    assert isinstance(segmenter, NamedSegmenter)
    segmenter.file = (str(path), file_sha256(path))
    assert load_pretrained(segmenter) is segmenter
    assert (segmenter.head.weight == 7).all()
    segmenter.file = (str(path), "0" * 64)
    with pytest.raises(UserError, match=r"must have the SHA-256 000000000000\.\.\. of the config"):
        load_pretrained(segmenter)
    segmenter.file = (str(tmp_path / "none"), "0" * 64)
    with pytest.raises(UserError, match="must be readable"):
        load_pretrained(segmenter)


def test_the_driver_refuses_a_file_that_a_worker_could_not_load(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_file({official_name(n): v for n, v in ViT(ViTOptions(size="tiny", depth=2)).state_dict().items()}, path)

    def config(sha256: str, depth: int, name: str = path.name) -> TrialConfig:
        attention = {"vit": {"size": "tiny", "depth": depth}, "teacher": str(tmp_path / name), "teacher_sha256": sha256}
        options = {"width": 1, "attention": attention}
        return tiny_config(architecture="dai_net", options=options, patch_size=(16, 16))

    right = file_sha256(path)
    check_pretrained([tiny_config(), config(right, 2), config(right, 2)])
    with pytest.raises(UserError, match=r"those of a ViT, but they have unexpected blocks\.1\..* more$"):
        check_pretrained([config(right, 2), config(right, 1)])
    with pytest.raises(UserError, match="restore the file"):
        check_pretrained([config("0" * 64, 2)])
    with pytest.raises(UserError, match="must be readable"):
        check_pretrained([config(right, 2, "none.safetensors")])
