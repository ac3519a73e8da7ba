"""A Ray session that ends what it started.

On one machine a private cluster is started; with an address (or inside `ray job submit`) the running one is joined.
The private cluster has no dashboard: nothing here needs it, since overread releases placement groups itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overread.errors import UserError

# Read by Ray when a process imports it. Train: poll the workers often, and start no process that we do not use.
# Tune: no CSV, JSON or TensorBoard files (MLflow has the curves), and Ctrl-C ends the search at once (it can resume).
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a session may use."""

    cpus: int
    gpus: float
    nodes: int
    cpus_per_node: int
    """CPUs of the largest node: a worker lies on one node."""

    def limited(self, cpus: int | None) -> Resources:
        """Return what is left under a limit of CPUs (None: no limit)."""
        most = self.cpus if cpus is None else min(cpus, self.cpus)
        return replace(self, cpus=most, cpus_per_node=min(most, self.cpus_per_node))


def apply_settings() -> None:
    """Set Ray's switches for this process and the processes it starts; what the user has set stays."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)


def joins_cluster(address: str | None) -> bool:
    """Return whether a session with this address joins a running cluster."""
    return _address(address) != "local"


def require_absolute(address: str | None, **paths: str | Path | None) -> None:
    """Refuse relative paths on a cluster: they would resolve inside Ray's temporary copy of the working directory.

    Keywords are option names (`data=...` is shown as `--data`). Raises `UserError` with all of them.
    """
    if not joins_cluster(address):
        return
    problems = [
        f"--{name.replace('_', '-')} must be an absolute path on a cluster (all nodes must see it), but got '{path}'"
        for name, path in paths.items()
        if path is not None and not Path(path).is_absolute()
    ]
    if problems:
        raise UserError(*problems)


def available() -> Resources:
    """Return the resources of the cluster this process is connected to."""
    import ray

    total = ray.cluster_resources()
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max((int(node.get("CPU", 0)) for node in alive), default=0)
    return Resources(
        cpus=int(total.get("CPU", 0)), gpus=float(total.get("GPU", 0)), nodes=len(alive), cpus_per_node=largest
    )


def threads_each(workers: int, cpus: int, cpus_per_node: int) -> int:
    """Return the most threads with which all workers find a place at once, on nodes of one size and a rest.

    A worker's threads are one request to Ray, and a request that no node can serve waits for ever.

    >>> threads_each(2, 8, 8), threads_each(1, 8, 4), threads_each(3, 6, 3)
    (4, 4, 1)
    """
    whole, rest = divmod(cpus, max(1, cpus_per_node))
    fitting = (t for t in range(1, cpus_per_node + 1) if whole * (cpus_per_node // t) + rest // t >= workers)
    return max(fitting, default=1)


def require_gpus(gpus: float, resources: Resources) -> None:
    """Raise `UserError` when a trial asks for more GPU than there is."""
    if gpus > 0 and resources.gpus < gpus:
        raise UserError(
            f"a trial must find {gpus:g} GPU, but the cluster has {resources.gpus:g}: "
            "use --gpus-per-worker 0 or join a cluster with GPUs"
        )


def require_workers(workers: int, gpus_per_worker: float, resources: Resources) -> None:
    """Raise `UserError` unless all workers of a training find a CPU each, and their GPUs."""
    if workers > resources.cpus:
        raise UserError(
            f"workers must find a CPU each, but {workers} workers share {resources.cpus}: use fewer or --cpus"
        )
    require_gpus(gpus_per_worker * workers, resources)


@contextmanager
def session(
    address: str | None = None,
    num_cpus: int | None = None,
    num_gpus: float | None = None,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[Resources]:
    """Connect to Ray and give the resources; on leaving, shut down what was started here.

    `address`: None starts a private cluster, unless RAY_ADDRESS is set (as it is inside `ray job submit`).
    A connection that this process already has is used and left open. SIGTERM ends what was started:
    exit code 143, or 1 while Tune runs.
    """
    import ray

    apply_settings()
    owner = not ray.is_initialized()
    if owner:
        _connect(address, num_cpus, num_gpus, dict(runtime_env or {}))
    try:
        with _ended_by_sigterm() if owner else nullcontext():
            yield available()
    finally:
        if owner:
            ray.shutdown()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave the block as by `sys.exit` on SIGTERM: Ray's own handler aborts the process with a trace of C++ frames."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _connect(address: str | None, num_cpus: int | None, num_gpus: float | None, runtime_env: dict[str, Any]) -> None:
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    where = _address(address)
    if where == "local":
        ray.init(address="local", num_cpus=num_cpus, num_gpus=num_gpus, runtime_env=runtime_env or None, **quiet)
        return
    del quiet["include_dashboard"]  # refused when joining
    try:
        ray.init(address=where, runtime_env=_for_nodes(runtime_env), **quiet)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"a Ray cluster must run at '{where}', but connecting failed ({reason}): start it") from error


def _for_nodes(runtime_env: dict[str, Any]) -> dict[str, Any] | None:
    """Add the package and Ray's switches for the other nodes; a submitted job brings its own environment."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return runtime_env or None
    package = str(Path(__file__).resolve().parents[1])
    return {"py_modules": [package], "env_vars": dict(RAY_SETTINGS)} | runtime_env
