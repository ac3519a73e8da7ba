"""Every command has help; a user's mistake ends with code 2 and one line per problem."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.cli import COMMANDS, main
from overread.confidence.judgement import Judgement
from overread.data.phantom import PhantomSettings, write_phantom
from overread.jsonio import write_json
from overread.records import Manifest, Preprocessing


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    """Return exit code, standard output, and the error lines."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
    return int(exit_.value.code or 0), captured.out, errors


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local Ray for all commands of this module that need one."""
    from overread.cluster.session import session

    with session(num_cpus=2):
        yield


@pytest.fixture
def phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERREAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return write_phantom(tmp_path / "data", PhantomSettings(cases=12, size=16))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: overread {command}")


@pytest.mark.parametrize("asked", [["--no-calibration"], ["--coverage", "0.9"]])
def test_another_calibration_after_the_locked_split_was_read_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    preprocessing = Preprocessing(channels=("x",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64)
    manifest = Manifest(
        name="set", members=(), label_names=("background", "organ"), label_values=(0, 1), preprocessing=preprocessing,
        winners="w", prepared="p", locked_cases=4,
    )  # fmt: skip
    manifest.save(tmp_path / "ensemble" / "manifest.json")
    judgement = Judgement(winners="w", coverage=0.8, targets={}, calibration=())
    judgement.save(tmp_path / "ensemble" / "confidence.json")
    write_json(tmp_path / "winners.json", {})
    write_json(tmp_path / "predictions" / "results.json", [])
    code, _, errors = run(capsys, "ensemble", "--out", str(tmp_path), *asked)
    assert code == 2 and len(errors) == 1
    assert "must stay at coverage 0.8" in errors[0] and "give --coverage 0.8" in errors[0]
    assert Judgement.load(tmp_path / "ensemble" / "confidence.json") == judgement


def test_architectures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "architectures", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0
    assert entries["unet"]["parameters"] == 31_042_434
    assert entries["unet_sharp"]["parameters"] == 9_716_545
    assert set(entries["unetmer"]) == {
        "name", "architecture", "paper", "options", "axes", "parameters", "in_channels", "classes", "size",
    }  # fmt: skip
    # further models of a paper are settings of its architecture
    assert entries["attention_unetmer"]["architecture"] == entries["trans_unet"]["architecture"] == "unetmer"
    assert entries["attention_unetmer"]["parameters"] == 34_877_486 + 75_841_536
    assert entries["unetmer_plus_plus"]["parameters"] == 36_628_546 + 75_841_536
    assert entries["trans_unet"]["parameters"] == entries["unetmer"]["parameters"] == 106_883_970


def test_doctor_names_versions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 0
    assert json.loads(out)["torch"].startswith("version 2.")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dance"], "unknown command 'dance': choose one of"),
        (["prepare"], "Missing option '--data'"),
        (["search", "--data", "d", "--out", "o", "--time-budget", "soon"], "must look like 90s"),
        (["evaluate"], "give either --out RUN, or --predictions"),
        (["ensemble", "--out", "o", "--tagged", "--members", "a"], "exclude each other"),
        (["ensemble", "--out", "o", "--select", "greedy", "--members", "a"], "excludes --tagged and --members"),
        (["ensemble", "--out", "o", "--budget", "5"], "--budget needs --select greedy"),
        (["ensemble", "--out", "o", "--out-of-fold"], "--out-of-fold needs --select greedy"),
        (["ensemble", "--out", "o", "--select", "greedy-per-class", "--fusion", "staple"], "needs --fusion soft"),
        (["evaluate", "--predictions", "p", "--data", "d", "--failure-dice", "0.5"], "--failure-dice needs --out"),
        (["winners", "--out", "nowhere"], "must be a run folder with run.json"),
        (["ui", "--out", "nowhere"], "must be a run folder with run.json"),
        (["report", "--out", "nowhere"], "must be a run or prediction folder"),
        (["train", "--data", "d", "--out", "o", "--config", "none.json"], "must exist"),
        (["train", "--out", "o", "--data", "d"], "give --data and --config, or --winners RUN"),
        (["train", "--out", "o", "--winners", "r", "--data", "d"], "--winners excludes --data, --config and --teacher"),
        (["train", "--out", "o", "--seeds", "2"], "--seeds needs --winners"),
        (["ensemble", "--out", "o", "--member", "nnunet"], "--member must be NAME=FOLDER with a folder of masks"),
        (["search", "--data", "d", "--out", "o"], "--trials nor --time-budget"),
        (
            ["search", "--data", "d", "--out", "o", "--trials", "1", "--workers-per-trial", "two"],
            "must be whole numbers",
        ),
    ],
)
def test_mistakes_before_any_work(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert len(errors) == 1
    assert says in errors[0]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
class TestMistakesWithRay:
    def search(self, phantom: Path, tmp_path: Path, *more: str) -> list[str]:
        return [
            "search",
            "--data",
            str(phantom),
            "--out",
            str(tmp_path / "run"),
            "--trials",
            "1",
            "--folds",
            "2",
            *more,
        ]

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--space", "cathedral"], "unknown space 'cathedral': choose one of"),
            (["--architectures", "resnet9000"], "'resnet9000': choose one of"),
            (["--gpus-per-worker", "1"], "must find 1 GPU"),
            (["--tracking-uri", "http://127.0.0.1:9"], "127.0.0.1:9"),
            (["--workers-per-trial", "64"], "workers must find a CPU"),
            (["--folds", "40"], "folds"),
            (["--resume"], "no run.json"),
        ],
    )
    def test_searches(
        self, capsys: pytest.CaptureFixture[str], phantom: Path, tmp_path: Path, more: list[str], says: str
    ) -> None:
        code, _, errors = run(capsys, *self.search(phantom, tmp_path, *more))
        assert code == 2, errors
        assert says in " ".join(errors)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("command", ["run", "demo"])
    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--space", "cathedral"], "unknown space 'cathedral': choose one of"),
            (["--architectures", "resnet9000"], "'resnet9000': choose one of"),
            (["--workers-per-trial", "64"], "workers must find a CPU"),
            (["--time-budget", "20s"], "must leave 15 s for the search"),
        ],
    )
    def test_whole_runs(
        self,
        capsys: pytest.CaptureFixture[str],
        phantom: Path,
        tmp_path: Path,
        command: str,
        more: list[str],
        says: str,
    ) -> None:
        data = ["--data", str(phantom), "--folds", "2"] if command == "run" else ["--cases", "20"]
        arguments = [*data, "--out", str(tmp_path / "run"), "--trials", "1", *more]
        code, _, errors = run(capsys, command, *arguments)
        assert code == 2, errors
        assert says in " ".join(errors)
        assert not (tmp_path / "run").exists()

    def test_an_existing_output_folder(self, capsys: pytest.CaptureFixture[str], phantom: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine.txt").write_text("mine")
        code, _, errors = run(capsys, *self.search(phantom, tmp_path))
        assert code == 2
        assert "--resume, --overwrite or another --out" in errors[0]
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]

    def test_all_problems_of_a_data_set_at_once(
        self, capsys: pytest.CaptureFixture[str], phantom: Path, tmp_path: Path
    ) -> None:
        masks = sorted((phantom / "masks").iterdir())
        masks[0].unlink()
        masks[1].write_bytes(b"no picture")
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(masks[2])
        code, _, errors = run(capsys, "prepare", "--data", str(phantom), "--cache", str(tmp_path / "cache2"))
        assert code == 2
        assert len(errors) == 3
        for path in masks[:3]:
            assert sum(path.stem in line for line in errors) == 1
        prepared = list((tmp_path / "cache2").rglob("manifest.json"))
        assert prepared == []

    def test_an_unknown_metric(self, capsys: pytest.CaptureFixture[str], phantom: Path) -> None:
        code, _, errors = run(
            capsys, "evaluate", "--predictions", str(phantom / "masks"), "--data", str(phantom), "--metrics", "beauty"
        )
        assert code == 2
        assert "unknown metric 'beauty': choose one of" in errors[0]

    def test_a_second_prepare_finds_the_arrays(self, capsys: pytest.CaptureFixture[str], phantom: Path) -> None:
        code, first, _ = run(capsys, "prepare", "--data", str(phantom), "--folds", "2", "--json")
        assert code == 0
        folder = Path(json.loads(first)["root"])
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        code, second, _ = run(capsys, "prepare", "--data", str(phantom), "--folds", "2", "--json")
        assert code == 0
        assert json.loads(second) == json.loads(first)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
