"""`overread architectures`, `overread ui` and `overread doctor`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click

from overread.cli import _options


@click.command()
@_options.as_json
def architectures(as_json: bool) -> None:
    """List every network with its paper, free axes, and parameters at the published setting."""
    from overread.architectures import ARCHITECTURES

    entries = [
        ARCHITECTURES[name].describe(setting) for name in ARCHITECTURES for setting in ARCHITECTURES[name].settings
    ]
    if as_json:
        return click.echo(json.dumps(entries, indent=1))
    from overread.cli._tables import architecture_grid, show

    return show([architecture_grid(entries)])


@click.command()
@_options.out
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(out: Path, host: str, port: int) -> None:
    """Open the MLflow UI on the store of a run; stop it with Ctrl-C."""
    from overread.pipeline.folders import RunFolder
    from overread.tracking.store import resolve_uri
    from overread.tracking.ui import ui_command

    folder = RunFolder(out.resolve())
    record = folder.load()
    command, environment = ui_command(resolve_uri(record.tracking_uri, folder.root), host, port)
    click.echo(f"MLflow on http://{host}:{port}, experiment '{record.experiment}'")
    # A fixed argument list, no shell: nothing of the user's text is interpreted.
    subprocess.run(command, env=os.environ | environment, check=False)  # noqa: S603


@click.command()
@_options.as_json
def doctor(as_json: bool) -> None:
    """Say what this machine has, and what is missing for overread."""
    from overread.pipeline.doctor import examine

    findings = examine()
    if as_json:
        return click.echo(json.dumps(findings))
    for name, finding in findings.items():
        click.echo(f"{name:<12} {finding}")
    return None
