"""`overread explain`."""

from __future__ import annotations

from pathlib import Path

import click

from overread.cli import _options
from overread.cli._session import show_log


@click.command()
@click.option("--package", type=_options.FOLDER, required=True, help="Ensemble package, such as RUN/ensemble.")
@click.option("--images", type=_options.FOLDER, required=True, help="Folder that holds the image.")
@click.option("--case", "case_id", required=True, help="Name of the image, without _0000 and suffix.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG file to write.")
@click.option("--member", "members", multiple=True, help="Only this member of the package; repeatable.")
@click.option("--class", "label", help="Its label [default: all foreground classes together].")
@click.option("--last", type=click.IntRange(1), default=3, show_default=True, help="Number of convolutions.")
def explain(
    package: Path, images: Path, case_id: str, out: Path, members: tuple[str, ...], label: str | None, last: int
) -> None:
    """Draw where each network of a package looks in one image: Grad-CAM of its last convolutions.

    Of a volume, the slice with most of what the network finds is shown.
    """
    from overread.pipeline.explaining import explain as draw

    show_log()
    click.echo(f"picture: {draw(package, images, case_id, out, members=members, label=label, last=last)}")
