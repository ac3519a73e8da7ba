"""Memory by members: the package's own reading is what is measured, and a failure leaves no table."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overread.architectures import build_segmenter
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.ensemble.predict import CaseReading
from overread.records import Prepared, PrepareSettings, TrialConfig
from overread.reproduction import failure_memory
from overread.reproduction.failure_memory import MemoryItem, measure_memory, memory_tables, package_memory
from overread.reproduction.results import Findings
from overread.training.checkpoint import save_weights

CONFIG = TrialConfig(
    architecture="unet", options={"width": 2}, losses={}, in_channels=1, classes=3, spatial_dims=2,
    patch_size=(32, 32), batch_size=2, steps=1, epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    data = write_phantom(folder / "phantom", PhantomSettings(cases=6, size=40, classes=3, seed=1))
    return prepare_dataset(data, PrepareSettings(max_side=32, folds=2), folder / "cache")


def test_a_package_of_these_networks_reads_the_case(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path / "weights.safetensors", build_segmenter(CONFIG))
    found: list[CaseReading] = []
    read = failure_memory.read_case
    monkeypatch.setattr(failure_memory, "read_case", lambda *given, **told: found.append(read(*given, **told)))
    weights = (str(tmp_path / "weights.safetensors"),) * 3
    item = MemoryItem(configs=(CONFIG,) * 3, weights=weights, case=prepared.cases[0].id, prepared=prepared.root)
    package_memory(item)
    small, whole = found
    assert small.mask.shape == (20, 20)  # every second pixel
    assert whole.relations.n == 3 and not whole.failed
    assert whole.mask.shape == prepared.cases[0].native_shape == (40, 40)


@pytest.fixture
def findings(prepared: Prepared, tmp_path: Path) -> Findings:
    networks = {name: [(CONFIG, tmp_path / name / "weights")] for name in "ab"}
    return cast(Findings, SimpleNamespace(combined=tmp_path / "combined", prepared=prepared, networks=networks))


def test_networks_take_turns_and_a_measurement_is_kept(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[MemoryItem] = []

    def process(function: Callable[[Any], Any], item: MemoryItem) -> int:
        measured.append(item)
        return 3 * 2**20

    monkeypatch.setattr(failure_memory, "in_new_process", process)
    monkeypatch.setattr(failure_memory, "MEMBERS", (1, 3))
    measure_memory(findings, "ab")
    measure_memory(findings, "ab")
    assert [[Path(path).parent.name for path in item.weights] for item in measured] == [["a"], ["a", "b", "a"]]
    (table,) = memory_tables(findings)
    assert [row[:2] for row in table.rows] == [("1", "3.0"), ("3", "3.0")]
    assert "1,600 voxels" in table.title


def test_a_process_that_was_ended_takes_no_other_table(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(function: Callable[[Any], Any], item: MemoryItem) -> int:
        raise RuntimeError("the process was ended")

    monkeypatch.setattr(failure_memory, "in_new_process", ended)
    measure_memory(findings, "ab")
    assert memory_tables(findings) == ()
