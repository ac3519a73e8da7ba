import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overread.errors import UserError
from overread.records import (
    EpochReport,
    Manifest,
    Member,
    Preprocessing,
    TrialConfig,
    TrialOutcome,
    VariantScore,
)
from overread.tracking.runs import Tracker
from overread.tracking.store import resolve_uri

CONFIG = TrialConfig(
    architecture="unet", options={"width": 8}, in_channels=1, classes=2, patch_size=(32, 32), train_seconds=5.0
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield resolve_uri(None, tmp_path_factory.mktemp("store"))


@pytest.fixture
def tracker(uri: str, request: pytest.FixtureRequest) -> Tracker:
    return Tracker(uri, "tests", f"search-{request.node.name}")


def report(epoch: int, dice: float = 0.5, seconds: float | None = None) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        step=10 * epoch,
        progress=25 * epoch,
        seconds=float(epoch) if seconds is None else seconds,
        metrics={"validation_dice": dice, "train_loss": math.nan if epoch == 2 else 1.0},
    )


def outcome(tracker: Tracker, folder: Path, **changes: object) -> TrialOutcome:
    score = VariantScore(variant="main", dice=0.9, dice_per_class={"organ": 0.9}, cases=2, seconds_per_case=0.1)
    done = TrialOutcome(
        trial_id="t1",
        config=CONFIG.resolved(40),
        state="finished",
        epochs=tuple(report(e) for e in range(1, 5)),
        variants=(score,),
        parameters=123,
        seconds=6.0,
        weights="weights.safetensors",
    )
    folder.mkdir(exist_ok=True)
    for name in ("weights.safetensors", "overlays.png", "outcome.json"):
        (folder / name).write_text(name)
    return replace(done, **changes)  # type: ignore[arg-type]


def points(tracker: Tracker, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracker.client.get_metric_history(run_id, metric)]


def test_the_tree_is_search_then_trial(tracker: Tracker) -> None:
    search = tracker.search_run({"trials": 3, "space": "panel"}, {"data": "phantom"})
    trial = tracker.start_trial("t1", CONFIG)
    run = tracker.client.get_run(trial)
    assert run.data.tags["mlflow.parentRunId"] == search
    assert run.data.params["options.width"] == "8"
    assert tracker.client.get_run(search).data.tags["data"] == "phantom"
    assert tracker.client.get_run(search).data.params == {"trials": "3", "space": "panel"}


def test_replayed_epochs_add_nothing_even_in_another_process(tracker: Tracker) -> None:
    trial = tracker.start_trial("t1", CONFIG)
    for epoch in (1, 2, 3):
        tracker.log_epoch("t1", report(epoch, dice=0.1 * epoch))
    again = pickle.loads(pickle.dumps(tracker))  # noqa: S301  (our own object, as Ray does it)
    assert again.start_trial("t1", CONFIG) == trial
    again.log_epoch("t1", report(3, dice=0.99, seconds=77.0))
    again.log_epoch("t1", report(4, dice=0.4))
    assert points(tracker, trial, "validation_dice") == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3)), (4, 0.4)]
    assert points(tracker, trial, "train_loss") == [(1, 1.0), (3, 1.0), (4, 1.0)]  # NaN is no point


def test_the_pickled_state_is_three_strings(tracker: Tracker) -> None:
    tracker.search_run()
    assert tracker.__getstate__() == {"uri": tracker.uri, "experiment": "tests", "search_id": tracker.search_id}


def test_reporting_before_start_is_refused(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match="call start_trial first"):
        tracker.log_epoch("t1", report(1))


def test_a_finished_trial_has_results_files_and_resolved_steps(tracker: Tracker, tmp_path: Path) -> None:
    tracker.start_trial("t1", CONFIG)
    tracker.log_epoch("t1", report(1))
    run_id = tracker.finish_trial("t1", outcome(tracker, tmp_path / "t1"), tmp_path / "t1")
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train_seconds"] == "5.0"
    assert run.data.params["steps"] == "40"
    assert run.data.metrics["dice"] == 0.9
    assert len(points(tracker, run_id, "validation_dice")) == 4
    names = {item.path for item in tracker.client.list_artifacts(run_id)}
    assert names == {"config.json", "outcome.json", "overlays.png", "weights.safetensors"}


def test_finishing_twice_is_finishing_once(tracker: Tracker, tmp_path: Path) -> None:
    done = outcome(tracker, tmp_path / "t1")
    first = tracker.finish_trial("t1", done, tmp_path / "t1")
    ended = tracker.client.get_run(first).info.end_time
    Tracker(tracker.uri, "tests", tracker.search_id).sync({"t1": (done, tmp_path / "t1")})
    assert len(tracker.trial_runs()) == 1
    assert tracker.trial_runs()[0].info.end_time == ended
    assert len(points(tracker, first, "dice")) == 1


@pytest.mark.parametrize(("state", "status"), [("stopped", "KILLED"), ("failed", "FAILED")])
def test_states_become_mlflow_status(tracker: Tracker, tmp_path: Path, state: str, status: str) -> None:
    run_id = tracker.finish_trial("t1", outcome(tracker, tmp_path, state=state, reason="nan_loss: x"), tmp_path)
    run = tracker.client.get_run(run_id)
    assert run.info.status == status
    assert run.data.tags["reason"] == "nan_loss: x"


def test_a_restarted_trial_runs_again(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.finish_trial("t1", outcome(tracker, tmp_path, state="failed"), tmp_path)
    assert tracker.start_trial("t1", CONFIG) == run_id
    assert tracker.client.get_run(run_id).info.status == "RUNNING"
    tracker.finish_trial("t1", outcome(tracker, tmp_path), tmp_path)
    assert tracker.client.get_run(run_id).info.status == "FINISHED"


def test_the_search_ends_and_reopens(tracker: Tracker) -> None:
    run_id = tracker.search_run()
    tracker.end_search(metrics={"best_dice": 0.9})
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert tracker.client.get_run(run_id).data.metrics["best_dice"] == 0.9
    assert tracker.search_run() == run_id
    assert tracker.client.get_run(run_id).info.status == "RUNNING"


def test_the_ensemble_lies_below_the_search(tracker: Tracker, tmp_path: Path) -> None:
    member = Member(
        name="unet-t1",
        trial_id="t1",
        architecture="unet",
        variant="main",
        config=CONFIG,
        weights="unet-t1.safetensors",
        sha256="0",
        validation_dice=0.9,
    )
    manifest = Manifest(
        name="ensemble",
        members=(member,),
        label_names=("background", "organ"),
        label_values=(0, 1),
        preprocessing=Preprocessing(channels=("image",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64),
        winners="abc",
        prepared="def",
        locked_cases=4,
    )
    manifest.save(tmp_path / "manifest.json")
    search = tracker.search_run()
    run_id = tracker.ensemble_run(manifest, {"locked_dice": 0.91}, tmp_path)
    assert tracker.ensemble_run(manifest, {"locked_dice": 0.91}, tmp_path) == run_id
    run = tracker.client.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == search
    assert run.data.metrics == {"validation_dice/unet-t1": 0.9, "locked_dice": 0.91}
    assert {item.path for item in tracker.client.list_artifacts(run_id, "model")} >= {"model/MLmodel", "model/data"}
    assert tracker.trial_runs() == []


def test_a_deleted_experiment_is_a_clear_error(uri: str) -> None:
    tracker = Tracker(uri, "deleted", "s")
    tracker.search_run()
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(UserError, match="was deleted"):
        Tracker(uri, "deleted", "s").search_run()


def test_an_apostrophe_in_names_and_folders_is_no_trouble(tmp_path: Path) -> None:
    place = tmp_path / "o'brien"
    tracker = Tracker(resolve_uri(None, place), "brien's set", "it's")
    run_id = tracker.finish_trial("t1", outcome(tracker, tmp_path / "t1"), tmp_path / "t1")
    assert [run.info.run_id for run in tracker.trial_runs()] == [run_id]
    assert (tracker.experiment, tracker.search_id) == ("brien_s set", "it_s")
    assert len(list((place / "mlartifacts").rglob("weights.safetensors"))) == 1
