import importlib.util
from pathlib import Path

import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.ensemble import export
from overread.ensemble.export import export_onnx
from overread.errors import UserError
from overread.testing.architectures import toy_batch


def trained(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    built = ARCHITECTURES["unet_sharp"].build(
        {"width": 4, "level": 2, "deep_supervision": True} | options, in_channels=2, classes=3
    )
    built(toy_batch((16, 16), channels=2))
    return built.eval()


def test_the_export_reads_what_pytorch_reads_at_any_batch_size(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    small = trained().pruned(1)
    assert export_onnx(small, tmp_path / "member.onnx", in_channels=2, size=(16, 24)) < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "member.onnx"))
    batch = toy_batch((16, 24), channels=2, samples=5)
    (found,) = session.run(None, {"images": batch.images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), small.read(batch).probabilities, atol=1e-5, rtol=1e-4)


def test_an_export_that_reads_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="must read within"):
        export_onnx(trained(), tmp_path / "member.onnx", in_channels=2, size=(16, 16))
    assert list(tmp_path.iterdir()) == []


def test_a_detector_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with torch.device("meta"):
        detector = ARCHITECTURES["mask_rcnn"].build({"width": 2}, in_channels=1, classes=2)
    with pytest.raises(UserError, match="of a fixed computation, but this one looks for objects"):
        export_onnx(detector, tmp_path / "member.onnx", in_channels=1, size=(64, 64))


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx, onnxscript, onnxruntime, .* overread\[onnx\]"):
        export_onnx(trained(), tmp_path / "member.onnx", in_channels=2, size=(16, 16))
