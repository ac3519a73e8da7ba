import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from overread.errors import UserError
from overread.tracking import store


def test_default_is_an_sqlite_file_in_the_run_folder_and_is_migrated(tmp_path: Path) -> None:
    uri = store.resolve_uri(None, tmp_path / "run")
    assert uri == f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"
    assert (tmp_path / "run" / "mlflow.db").stat().st_size > 0
    assert store.artifact_root(uri) == tmp_path / "run" / "mlartifacts"
    assert store.client(uri).search_experiments()


def test_a_relative_sqlite_file_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.resolve_uri("sqlite:///mine.db", Path("elsewhere")) == f"sqlite:///{tmp_path / 'mine.db'}"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://no-such-host.invalid", "http://:notaport"])
def test_an_unreachable_server_is_one_clear_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be reachable") as caught:
        store.resolve_uri(uri, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert "SQLite file in the run folder" in str(caught.value)


@pytest.mark.parametrize("uri", ["mlruns", "file:///data/mlruns", "ftp://host/x"])
def test_other_addresses_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be http"):
        store.resolve_uri(uri, tmp_path)


def test_a_server_that_is_not_mlflow_is_refused(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match="must be reachable"):
            store.resolve_uri(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not SQLite at all, but some text of a certain length" * 20)
    with pytest.raises(UserError, match="must be reachable"):
        store.resolve_uri(None, tmp_path)


def test_passwords_do_not_reach_messages() -> None:
    with pytest.raises(UserError) as caught:
        store.resolve_uri("http://me:secret@127.0.0.1:9", Path())
    assert "secret" not in str(caught.value)
