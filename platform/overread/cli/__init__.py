"""The command line: `overread COMMAND`. Thin: parse, call the pipeline, print.

A user's mistake ends with exit code 2 and one line per problem on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from overread import __version__
from overread.cli._lazy import LazyGroup
from overread.errors import OverreadError, UserError

COMMANDS = {
    "demo": "overread.cli.run:demo",
    "run": "overread.cli.run:run",
    "prepare": "overread.cli.prepare:prepare",
    "pretrain": "overread.cli.pretrain:pretrain",
    "search": "overread.cli.search:search",
    "train": "overread.cli.train:train",
    "winners": "overread.cli.winners:winners",
    "ensemble": "overread.cli.ensemble:ensemble",
    "predict": "overread.cli.predict:predict",
    "explain": "overread.cli.explain:explain",
    "evaluate": "overread.cli.evaluate:evaluate",
    "report": "overread.cli.evaluate:report",
    "prune": "overread.cli.prune:prune",
    "reproduce": "overread.cli.reproduce:reproduce",
    "bench": "overread.cli.bench:bench",
    "architectures": "overread.cli.info:architectures",
    "ui": "overread.cli.info:ui",
    "doctor": "overread.cli.info:doctor",
}
"""Command -> module:function, in the order of the story; a module is imported when its command is used."""


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    help="A panel of segmentation networks reads every case, says where it agrees, and which cases to look at first.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="overread")
def app() -> None:
    """Group of all commands."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed, 2 a user's mistake, 130 interrupted."""
    try:
        # Without standalone mode click returns the code of --help and --version instead of exiting.
        code = app.main(args=list(argv) if argv is not None else None, prog_name="overread", standalone_mode=False)
    except click.ClickException as error:
        _fail((error.format_message(),), 2)
    except UserError as error:
        _fail(error.problems, 2)
    except OverreadError as error:
        _fail((str(error),), 1)
    except (KeyboardInterrupt, click.Abort):
        _fail(("interrupted",), 130)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(problems: Sequence[str], code: int) -> None:
    for problem in problems:
        click.echo(f"error: {' '.join(problem.split())}", err=True)
    sys.exit(code)
