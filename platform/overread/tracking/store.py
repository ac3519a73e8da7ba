"""Where runs are kept: an SQLite file in the run folder by default, or a server or database of the user's.

MLflow's plain file store is refused by MLflow itself ("maintenance mode"), so a bare folder is no address here.
"""

from __future__ import annotations

import http.client
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from overread.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
DATABASES = ("postgresql", "mysql", "mssql")
REACH_SECONDS = 3.0
"""How long a server may take to answer before it counts as unreachable."""


def resolve_uri(uri: str | None, out: Path) -> str:
    """Return the tracking address to use and prove that it works; the store is opened once, so it is migrated.

    None gives `sqlite:///<out>/mlflow.db`. A server that does not answer within a few seconds, a broken database
    and an unknown kind of address raise `UserError`.
    """
    resolved = _absolute(uri or f"{SQLITE}{out.resolve() / 'mlflow.db'}")
    if is_server(resolved):
        _reach(resolved)
    _open(resolved)
    return resolved


def is_server(uri: str) -> bool:
    """Say whether the address is that of a running MLflow server."""
    return urlsplit(uri).scheme in ("http", "https")


def artifact_root(uri: str) -> Path | None:
    """Return the folder of pictures and weights: beside the SQLite file; None where a server decides."""
    return Path(uri.removeprefix(SQLITE)).parent / "mlartifacts" if uri.startswith(SQLITE) else None


def client(uri: str) -> MlflowClient:
    """Return an MLflow client of the store; quiet, and without MLflow's usage telemetry."""
    _import_quietly()
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):  # dozens of migration lines for every new SQLite file
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _import_quietly() -> None:
    """Import MLflow without telemetry (decided at import), stray output and its own deprecation warnings."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for `--json`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401


def _absolute(uri: str) -> str:
    scheme = urlsplit(uri).scheme.split("+")[0]
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE)).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        return f"{SQLITE}{path}"
    if scheme in ("http", "https", *DATABASES):
        return uri.rstrip("/")
    raise UserError(
        f"the tracking address must be http(s)://HOST:PORT, sqlite:///FILE or a database, but got '{uri}': "
        "leave it out to use an SQLite file in the run folder"
    )


def _reach(uri: str) -> None:
    """Ask the server for its health with a short timeout: MLflow's own client would retry for minutes."""
    parts = urlsplit(uri)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=REACH_SECONDS)
        try:
            connection.request("GET", f"{parts.path}/health")
            connection.getresponse().read()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(uri, error) from error


def _open(uri: str) -> None:
    _import_quietly()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _impatient():
            client(uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise _unreachable(uri, error) from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow's REST client give up at once while the address is being tried."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _unreachable(uri: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"the MLflow store {_without_password(uri)} must be reachable, but it is not ({reason}): start it, correct "
        "the tracking address, or leave it out to use an SQLite file in the run folder"
    )


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri
