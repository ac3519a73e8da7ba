"""Workers that train together: a Ray Train `TorchTrainer` inside a trial (or an actor), as lean as Ray 2.60 allows.

By default a `TorchTrainer` starts up to eight processes per trial. Here its controller runs in the caller's process,
reports go straight to Tune (or to the caller), and helpers that we do not use are left out: 3.3 s instead of 18 s to
start. This needs private names of Ray 2.60 (hence the pin); where they are missing, the plain `TorchTrainer` does the
same job slower.

Trap (ray issue 54305): the workers' placement group outlives a trial that is killed. Its id is written to the trial's
folder as soon as the group exists, and the driver removes the group when the trial has ended (`release_group`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.cluster.job import GROUP, StopSignal, TrialJob, WorkerJob, last_checkpoint
from overread.cluster.session import apply_settings
from overread.jsonio import read_json, write_json
from overread.records import Prepared

if TYPE_CHECKING:
    from torch import nn

    from overread.cluster.trainable import Worker
    from overread.training.worker import WorkerContext

Report = Callable[[dict[str, Any]], object]

logger = logging.getLogger(__name__)


class WorkerDied(Exception):  # noqa: N818  (a process ended; the trial may go on)
    """A worker process or node died; the trial can be resumed from its last checkpoint."""


def run_group(job: TrialJob, prepared: Prepared, worker: Worker) -> None:
    """Run the workers of a trial to their end; called in the trial's process. Errors as in `fit_group`."""
    apply_settings()  # the controller reads them in this process

    from ray import tune

    def loop() -> None:
        train_on_rank(job, prepared, worker)

    fit_group(job, loop, tune.report)


def fit_group(job: WorkerJob, loop: Callable[[], None], report: Report) -> None:
    """Run `loop` in every worker of a group; `report` gets rank 0's metrics as they come, in this process (an actor).

    Raises `WorkerDied` when a process ended, and the worker's own exception when its code failed.
    """
    try:
        _trainer(job, loop, report).fit()
    except Exception as error:
        raise own_error(error) from error


def own_error(error: Exception) -> BaseException:
    """Return the exception of the worker's own code inside Ray's, or `WorkerDied` when no code failed."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    causes = [getattr(failure, "_base_exc", failure) for _, failure in sorted(failures.items())]
    # A rank that fails makes the others fail in their collective calls; the reason we know is the one to show.
    own = sorted((cause for cause in causes if not _is_rays(cause)), key=_is_collective)
    return own[0] if own else WorkerDied(f"{type(causes[0]).__name__}: {causes[0]}".splitlines()[0])


def _is_rays(cause: BaseException) -> bool:
    """Return whether Ray says that a process ended or did not answer."""
    return type(cause).__module__.partition(".")[0] == "ray"


def _is_collective(cause: BaseException) -> bool:
    return isinstance(cause, RuntimeError) and any(word in str(cause) for word in ("gloo", "Connection", "NCCL"))


def train_on_rank(job: TrialJob, prepared: Prepared, worker: Worker) -> None:
    """Run the worker function as one rank of the group; called by Ray Train in each worker process."""
    import ray.train

    from overread.cluster.trainable import explain, make_reporter

    stop = StopSignal(job=job)
    context = rank_context(job, stop)
    context.report = make_reporter(job, context.rank, ray.train.report)
    context.resume = last_checkpoint(job.path)
    outcome = worker(job.config, prepared, context)
    if context.rank == 0:
        explain(outcome, stop.reason, job.path)


def rank_context(job: WorkerJob, stop: StopSignal) -> WorkerContext:
    """Return what this process of a group is given; its reports go nowhere yet."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from overread.training.worker import WorkerContext

    torch.set_num_threads(job.threads)
    device = get_device()
    return WorkerContext(
        trial_id=job.trial_id,
        folder=job.path,
        rank=ray.train.get_context().get_world_rank(),
        world_size=job.workers,
        device=device,
        threads=job.threads,
        wrap=lambda module: data_parallel(module, device),
        should_stop=stop,
    )


def data_parallel(module: nn.Module, device: Any) -> nn.Module:
    """Wrap a module so that its gradients are averaged over the ranks."""
    import torch.distributed
    from torch.nn.parallel import DistributedDataParallel

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return module
    devices = [device] if device.type == "cuda" else None
    # BatchNorm statistics are averaged before they are used; a broadcast at every step would cost and change nothing.
    return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def release_group(folder: Path) -> None:
    """Remove the placement group that a trial may have left; called on the driver when the trial has ended."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    path = folder / GROUP
    if not path.exists():
        return
    group = PlacementGroup(PlacementGroupID(bytes.fromhex(read_json(path)["id"])))
    try:
        remove_placement_group(group)
    except Exception:  # a group that is gone already is what we want
        logger.debug("placement group of %s was gone", folder, exc_info=True)
    path.unlink(missing_ok=True)


def _trainer(job: WorkerJob, loop: Callable[[], None], report: Report) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig

    gpu = job.gpus_per_worker > 0
    bundle = {"CPU": float(job.threads)} | ({"GPU": job.gpus_per_worker} if gpu else {})
    arguments = {
        "scaling_config": ray.train.ScalingConfig(num_workers=job.workers, use_gpu=gpu, resources_per_worker=bundle),
        "torch_config": TorchConfig(backend="nccl" if gpu and job.gpus_per_worker >= 1 else "gloo"),
    }
    storage = {"name": f"train-{job.trial_id}", "storage_path": str(job.path.resolve() / "ray")}
    try:
        lean, direct = _lean_classes(job.path, report)
    except (ImportError, AttributeError):
        logger.warning("this Ray has no in-process controller: groups of workers start slower")
        return _plain_trainer(loop, arguments, storage, in_trial=isinstance(job, TrialJob))
    return lean(loop, run_config=ray.train.RunConfig(callbacks=[direct()], **storage), **arguments)


def _plain_trainer(loop: Any, arguments: dict[str, Any], storage: dict[str, str], *, in_trial: bool) -> Any:
    """Return Ray's own trainer; outside of a trial nothing hears its reports, and files tell the end."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    callbacks: list[Any] = [TuneReportCallback()] if in_trial else []
    return TorchTrainer(loop, run_config=ray.train.RunConfig(callbacks=callbacks, **storage), **arguments)


def _lean_classes(folder: Path, report: Report) -> tuple[Any, Any]:
    """Return the trainer with an in-process controller and the callback that reports from it."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback
    from ray.train.v2._internal.execution.controller import TrainController

    class NoteGroup(WorkerGroupCallback):
        def after_worker_group_start(self, worker_group: Any) -> None:
            group = worker_group._worker_group_state.placement_group_handle.placement_group
            write_json(folder / GROUP, {"id": group.id.hex()})

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = (PlacementGroupCleanerCallback, DatasetsCallback)
            kept = [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]
            return [*kept, NoteGroup()]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            controller = TrainController(**arguments)
            asyncio.run(controller.run())
            return controller.get_result()

    class DirectReport(ray.train.UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            report(dict(metrics[0]))

    return LeanTrainer, DirectReport
