from pathlib import Path

import torch

from overread.cluster.torch_trainer import WorkerDied, _lean_classes, data_parallel, own_error
from overread.errors import TrialFailure


class GroupError(Exception):
    """Like Ray's WorkerGroupError: exceptions by rank, wrapped with their traceback."""

    def __init__(self, **failures: Exception) -> None:
        super().__init__("Training failed due to worker errors:\nlast line")
        self.worker_failures = {int(rank[1:]): failure for rank, failure in failures.items()}


class WrappedError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self._base_exc = cause


def test_the_first_cause_is_shown_and_not_the_broken_connection_that_follows() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    nan = TrialFailure("nan_loss", "at step 3")
    assert own_error(GroupError(r0=WrappedError(lost), r1=WrappedError(nan))) is nan


def test_without_an_error_of_the_code_a_worker_died() -> None:
    from ray.exceptions import RayActorError

    assert isinstance(own_error(GroupError(r0=RayActorError())), WorkerDied)


def test_an_error_that_ray_did_not_wrap_is_found_as_well() -> None:
    nan = TrialFailure("nan_loss", "at step 3")
    assert own_error(GroupError(r1=nan)) is nan


def test_other_errors_stay_themselves() -> None:
    error = ValueError("controller")
    assert own_error(error) is error


def test_one_process_needs_no_wrapper() -> None:
    module = torch.nn.Linear(1, 1)
    assert data_parallel(module, torch.device("cpu")) is module


def test_the_private_names_of_ray_are_there() -> None:
    trainer, report = _lean_classes(Path("trial"), print)
    assert "_initialize_and_run_controller" in vars(trainer)
    assert hasattr(trainer.__mro__[1], "_create_default_callbacks")  # both are overridden, so both must exist in Ray
    assert hasattr(report, "after_report")
