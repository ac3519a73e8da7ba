"""The demo: the whole road on the built-in phantom, in a few minutes on a laptop."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from overread.data.phantom import PhantomSettings, write_phantom
from overread.jsonio import fingerprint

COMPLETE = "difficulty.csv"
"""Written last."""


def demo_phantom(cache: Path, *, cases: int, seed: int, kind: str = "2d", annotators: int = 1) -> Path:
    """Generate (or find) the demo's data set in the cache and return its folder."""
    settings = PhantomSettings.from_json({"cases": cases, "seed": seed, "kind": kind, "annotators": annotators})
    root = cache / "phantoms" / f"phantom-{kind}-{cases}-{fingerprint(settings.to_json())[:8]}"
    if not (root / COMPLETE).is_file():
        _generate(root, settings)
    return root


def _generate(root: Path, settings: PhantomSettings) -> None:
    """Write beside the place and rename: an interrupted generation leaves nothing in the way."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".partial-", ignore_cleanup_errors=True) as name:
        made = write_phantom(Path(name) / root.name, settings)
        if root.exists() and not (root / COMPLETE).is_file():
            shutil.rmtree(root)
        try:
            made.rename(root)
        except OSError:
            if not (root / COMPLETE).is_file():  # otherwise another process was faster
                raise
