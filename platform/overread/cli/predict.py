"""`overread predict`."""

from __future__ import annotations

from pathlib import Path

import click

from overread.cli import _options
from overread.cli._session import working


@click.command()
@click.option("--package", type=_options.FOLDER, required=True, help="Ensemble package, such as RUN/ensemble.")
@click.option("--images", type=_options.FOLDER, required=True, help="Folder of new images (searched flat).")
@click.option("--out", type=_options.FOLDER, required=True, help="Prediction folder to make.")
@click.option("--probabilities", is_flag=True, help="Write the mean probabilities too.")
@click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="GPU share of each task.")
@click.option("--overwrite", is_flag=True, help="Delete an earlier prediction in --out first.")
@_options.member
@_options.cluster
def predict(
    package: Path,
    images: Path,
    out: Path,
    probabilities: bool,
    gpus: float,
    overwrite: bool,
    folders: tuple[str, ...],
    address: str | None,
    cpus: int | None,
) -> None:
    """Read new images with an ensemble: masks, Possible, Consensus, confidence.csv and report.html.

    Masks have the geometry and format of the images. Channels of a case are files NAME_0000, NAME_0001, ...
    as many as the package has; any other file is a case of its own. All images are checked before --out is made.

    An imported member of the package needs --member NAME=FOLDER with its readings of these images; other names join
    as guests. A case without a reading is flagged: there the member counts as failed.
    """
    from overread.pipeline.prediction import predict_folder

    members = _options.named_folders("--member", folders)
    with working(
        address, cpus, gpus, package=package, images=images, out=out, member=_options.first_relative(members)
    ) as map_cases:
        results = predict_folder(
            package,
            images,
            out,
            map_cases,
            probabilities=probabilities,
            gpus=gpus,
            overwrite=overwrite,
            members=members,
        )
    flagged = sum(bool(result.confidence.flag) for result in results)
    click.echo(f"{len(results)} cases read, {flagged} flagged")
    click.echo(f"report: {(out / 'report.html').resolve()}")
