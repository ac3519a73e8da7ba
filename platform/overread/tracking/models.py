"""Ensemble packages as MLflow models and in MLflow's model registry."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "model"
"""Folder of the model among a run's artifacts."""
LOADER = "overread.ensemble.served"
"""Module that opens a package for `mlflow.pyfunc`; imported by name, so nothing is pickled."""


def log_package(client: MlflowClient, run_id: str, package: Path) -> None:
    """Write a package as the model of a run; a second time it is left as it is."""
    from mlflow import pyfunc

    if client.list_artifacts(run_id, MODEL):
        return
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / MODEL
        requirements = [f"overread=={version('overread')}"]  # given, or MLflow would load the model to guess them
        pyfunc.save_model(str(model), loader_module=LOADER, data_path=str(package), pip_requirements=requirements)
        client.log_artifacts(run_id, str(model), MODEL)


def register(client: MlflowClient, run_id: str, name: str) -> str:
    """Return the registered version of a run's model; a run is registered once."""
    from mlflow.exceptions import MlflowException

    known = client.search_model_versions(f"run_id='{run_id}'")
    if known:
        return str(known[0].version)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(name, source=f"runs:/{run_id}/{MODEL}", run_id=run_id).version)
