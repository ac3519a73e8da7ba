"""Check that every relative link of the given Markdown files leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors that a forge gives the headings of a page."""
    headings = re.findall(r"^#+\s+(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Return one line per relative link that leads nowhere."""
    dead = []
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            dead.append(f"{page}: '{link}' leads to no file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            dead.append(f"{page}: '{link}' leads to no heading")
    return dead


if __name__ == "__main__":
    problems = [line for name in sys.argv[1:] for line in dead_links(Path(name))]
    sys.stderr.write("".join(f"{line}\n" for line in problems))
    sys.exit(1 if problems else 0)
