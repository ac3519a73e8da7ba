import sys

import pytest

from overread.errors import UserError
from overread.tracking.ui import ui_command


def test_the_command_starts_one_web_worker_without_job_runner() -> None:
    command, environment = ui_command("sqlite:////data/run/mlflow.db", port=5050)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--backend-store-uri") + 1] == "sqlite:////data/run/mlflow.db"
    assert command[command.index("--artifacts-destination") + 1] == "file:///data/run/mlartifacts"
    assert command[-6:] == ["--host", "127.0.0.1", "--port", "5050", "--workers", "1"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_a_running_server_needs_no_second_one() -> None:
    with pytest.raises(UserError, match="open that address"):
        ui_command("http://127.0.0.1:5000")
