from pathlib import Path

import pytest

from overread.records import EpochReport
from overread.tracking.pretraining import PretrainTracker
from overread.tracking.store import resolve_uri
from overread.training.dino import PretrainConfig
from overread.training.pretraining import PretrainOutcome, picture

CONFIG = PretrainConfig(epochs=2)


def report(epoch: int) -> EpochReport:
    return EpochReport(
        epoch=epoch, step=epoch, progress=50 * epoch, seconds=float(epoch), metrics={"loss": 3.0 - epoch}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in (
        picture(tmp_path, 1),
        picture(tmp_path, 2),
        tmp_path / "pretrain.json",
        tmp_path / "teacher.safetensors",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.name)
    return tmp_path


def test_curves_pictures_and_warning_are_written_once(folder: Path) -> None:
    tracker = PretrainTracker(resolve_uri(None, folder), "tests", "pretrain /runs/dino")
    run_id = tracker.start_pretraining("dino", CONFIG)
    tracker.log_pretraining("dino", report(1), folder)
    outcome = PretrainOutcome(
        config=CONFIG, state="finished", epochs=(report(1), report(2)), warning="collapsed", images=4, data="d",
        dataset="tiny", cases=("a",), steps=2, seconds=2.0, workers=1, teacher_sha256="0" * 64, versions={},
    )  # fmt: skip
    for _ in range(2):
        tracker.finish_pretraining("dino", outcome, folder)
    client = tracker.client
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert [file.path for file in client.list_artifacts(run_id, "attention")] == [
        "attention/epoch-0001.png", "attention/epoch-0002.png",
    ]  # fmt: skip
    run = client.get_run(run_id)
    assert {"pretrain.json", "teacher.safetensors"} <= {file.path for file in client.list_artifacts(run_id)}
    assert (run.info.status, run.data.tags["warning"], run.data.params["vit.size"]) == (
        "FINISHED",
        "collapsed",
        "small",
    )
    assert "mlflow.parentRunId" not in run.data.tags
    tracker.finish_pretraining("other", None, folder)
    (failed,) = tracker._find("tags.state = 'failed'")
    assert failed.info.status == "FAILED"
