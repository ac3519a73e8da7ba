"""`ray job submit` against a head with token authentication, as in the README: search, ensemble, predict."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from overread.data.phantom import PhantomSettings, write_phantom

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RUNTIME_ENV = {"py_modules": ["platform/overread"], "excludes": [".venv", "runs", ".git"]}
pytestmark = pytest.mark.ray


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """A Ray head of its own with a token of its own; gives the environment that its clients need."""
    # Ray's sockets lie below its folder, and their paths must stay short.
    place = Path(tempfile.mkdtemp(prefix="ov-", dir="/tmp"))
    (place / "token").write_text(secrets.token_hex(32))
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place / "token"),
        "OVERREAD_CACHE": str(place / "cache"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--port", str(free_port()), "--num-cpus", "2",
        "--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--temp-dir", str(place / "ray"),
        # The agent takes submitted jobs; its fixed default port belongs to whichever cluster on the machine was first.
        "--dashboard-agent-listen-port", str(free_port()),
        "--disable-usage-stats",
    ]  # fmt: skip
    with (place / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=place)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/version", (place / "token").read_text(), process, place / "head.log")
        yield environment | {"RAY_ADDRESS": f"http://127.0.0.1:{port}"}
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


def wait_for(url: str, token: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the head answers to the token."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(request, timeout=5).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    pytest.fail(f"the head did not answer:\n{log.read_text()}")


def submit(environment: dict[str, str], job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Submit a job and wait for its end; a head that has just started may not have its agent yet."""
    command = [
        str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--runtime-env-json", json.dumps(RUNTIME_ENV),
        "--", "python", f"jobs/{job}.py", *arguments,
    ]  # fmt: skip
    for _ in range(20):
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
        )  # fmt: skip
        if "No available agent" not in done.stderr:
            break
        time.sleep(3)
    return done


def test_search_ensemble_and_predict_by_submitted_jobs(head: dict[str, str], tmp_path: Path) -> None:
    data = write_phantom(tmp_path / "data", PhantomSettings(cases=24, size=32, seed=1))
    out, cache = tmp_path / "run", tmp_path / "cache"
    search = submit(
        head, "search", "--data", str(data), "--out", str(out), "--cache", str(cache),
        "--trials", "2", "--time-budget", "100s", "--folds", "2",
    )  # fmt: skip
    assert search.returncode == 0, search.stdout + search.stderr
    ensemble = submit(head, "ensemble", "--out", str(out), "--top", "2")
    assert ensemble.returncode == 0, ensemble.stdout + ensemble.stderr
    read = tmp_path / "read"
    predict = submit(
        head, "predict", "--package", str(out / "ensemble"), "--images", str(data / "images"), "--out", str(read)
    )
    assert predict.returncode == 0, predict.stdout + predict.stderr
    assert len(list((out / "search" / "trials").glob("*/outcome.json"))) == 2
    assert (out / "ensemble" / "manifest.json").is_file()
    assert len(list((read / "masks").iterdir())) == 24
    assert (read / "report.html").is_file()


def test_relative_paths_and_a_missing_token_are_refused(head: dict[str, str]) -> None:
    relative = submit(head, "search", "--data", "data", "--out", "run", "--trials", "1")
    assert relative.returncode != 0
    assert "--data must be an absolute path on a cluster" in relative.stdout
    stranger = submit(head | {"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "search", "--help")
    assert stranger.returncode != 0
