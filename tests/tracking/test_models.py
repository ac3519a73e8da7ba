"""An ensemble package goes into MLflow's registry and comes back as a model that reads."""

from pathlib import Path

import numpy as np

from overread.data.images import NativeImage
from overread.ensemble.package import load_package, write_package
from overread.ensemble.predict import read_case
from overread.testing.drawn import write_members
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.tracking import models
from overread.tracking.runs import Tracker
from overread.tracking.store import resolve_uri


def test_a_registered_package_reads_as_the_package_does(tmp_path: Path) -> None:
    from mlflow import pyfunc, set_tracking_uri

    prepared = tiny_prepared(tmp_path / "prepared", cases=3)
    with tiny_architecture():
        configs = {"one": (tiny_config(seed=1), "main"), "two": (tiny_config(seed=2), "main")}
        winners, sources = write_members(tmp_path / "trials", prepared, configs)
        folder = tmp_path / "package"
        manifest = write_package(folder, winners, sources, prepared, name="it's a/test", versions={}, seed=0)
        uri = resolve_uri(None, tmp_path)
        tracker = Tracker(uri, "models", "search")
        run_id = tracker.ensemble_run(manifest, {}, folder)
        assert tracker.ensemble_run(manifest, {}, folder) == run_id
        (registered,) = tracker.client.search_model_versions(f"run_id='{run_id}'")
        assert (registered.name, registered.version) == ("it_s a_test", 1)
        assert models.register(tracker.client, run_id, registered.name) == "1"

        set_tracking_uri(uri)
        model = pyfunc.load_model(f"models:/{registered.name}/1")
        image = np.random.default_rng(0).normal(size=(1, *prepared.cases[0].native_shape)).astype(np.float32)
        (found,) = model.predict([image])
        package = load_package(folder)
        reading = read_case(package, NativeImage(image, None, None, "float32", ".png"), "cpu", case_id="image_0")
        np.testing.assert_array_equal(found["mask"], np.asarray(manifest.label_values)[reading.mask])
        assert found["confidence"]["relation_confidence"] == reading.confidence.relation_confidence
    stored = tmp_path / "mlartifacts"
    assert not [path for path in stored.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
