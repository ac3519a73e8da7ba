import subprocess
import sys

import pytest

from overread.cluster.session import (
    Resources,
    available,
    joins_cluster,
    require_absolute,
    require_gpus,
    require_workers,
    threads_each,
)
from overread.errors import UserError

SCRIPT = """
import ray
from overread.cluster.session import session
try:
    with session(address="local", num_cpus=3) as outer:
        with session(num_cpus=1) as inner:
            assert inner == outer
        assert ray.is_initialized()
        assert (outer.cpus, outer.gpus, outer.nodes, outer.cpus_per_node) == (3, 0.0, 1, 3), outer
        raise KeyError("inside")
except KeyError:
    assert not ray.is_initialized()
"""
WAITING = """
import ray, time
from overread.cluster.session import session
try:
    with session(address="local", num_cpus=1):
        print("ready", flush=True)
        ray.get(ray.remote(lambda: time.sleep(600)).remote())
finally:
    assert not ray.is_initialized()
    print("left", flush=True)
"""


def test_relative_paths_are_fine_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    require_absolute(None, data="data", out="runs")
    assert not joins_cluster(None)


def test_relative_paths_are_refused_on_a_cluster() -> None:
    with pytest.raises(UserError) as caught:
        require_absolute("auto", data="data", out="/shared/out", tracking_uri=None, spaces_dir="spaces")
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("--data must be an absolute path on a cluster")
    assert "--spaces-dir" in caught.value.problems[1]


def test_a_submitted_job_joins_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert joins_cluster(None)


def test_gpus_that_are_not_there_are_refused() -> None:
    nothing = Resources(cpus=2, gpus=0.0, nodes=1, cpus_per_node=2)
    require_gpus(0.0, nothing)
    require_gpus(0.5, Resources(cpus=2, gpus=1.0, nodes=1, cpus_per_node=2))
    with pytest.raises(UserError, match=r"must find 0\.5 GPU, but the cluster has 0: use --gpus-per-worker 0"):
        require_gpus(0.5, nothing)


def test_every_worker_needs_a_cpu_and_its_share_of_the_gpus() -> None:
    here = Resources(cpus=2, gpus=1.0, nodes=1, cpus_per_node=2)
    require_workers(2, 0.5, here)
    with pytest.raises(UserError, match="workers must find a CPU each, but 3 workers share 2"):
        require_workers(3, 0.0, here)
    with pytest.raises(UserError, match="must find 2 GPU, but the cluster has 1"):
        require_workers(2, 1.0, here)


def test_the_largest_node_counts_among_those_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    nodes = [(True, {"CPU": 4.0}), (True, {"CPU": 6.0, "GPU": 1.0}), (False, {"CPU": 32.0}), (True, {})]
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 10.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": alive, "Resources": has} for alive, has in nodes])
    here = available()
    assert here == Resources(cpus=10, gpus=1.0, nodes=3, cpus_per_node=6)
    assert here.limited(None) == here
    assert here.limited(5) == Resources(cpus=5, gpus=1.0, nodes=3, cpus_per_node=5)
    assert here.limited(64).cpus == 10


def test_all_workers_find_a_node_for_their_threads() -> None:
    assert threads_each(2, 8, 8) == 4
    assert threads_each(1, 8, 4) == 4
    # two nodes of 3: with 2 threads each node takes one worker, with 1 thread three
    assert (threads_each(2, 6, 3), threads_each(3, 6, 3)) == (3, 1)
    # a node of 4 and a rest of 2: with 2 threads 2 + 1 workers
    assert threads_each(3, 6, 4) == 2
    assert threads_each(9, 2, 2) == 1


@pytest.mark.ray
def test_a_session_ends_what_it_started_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
def test_sigterm_ends_what_was_started() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (143, "left\n", "")
