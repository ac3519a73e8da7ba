"""What this machine has that matters for a run."""

from __future__ import annotations

import os
import shutil
import sys

from overread.data.store import default_cache
from overread.pipeline.summary import versions


def examine() -> dict[str, str]:
    """Return findings by name, as text."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cache = default_cache()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    findings = {
        "executable": sys.executable,
        "cores": str(os.cpu_count()),
        "memory": f"{memory_gib:.1f} GiB",
        "gpu": ", ".join(gpus) or "none: trainings run on the CPU",
        "cache": f"{cache} ({shutil.disk_usage(place).free / 2**30:.0f} GiB free)",
        "ray address": os.environ.get("RAY_ADDRESS", "none: a private cluster is started for each command"),
    }
    return findings | {name: f"version {version}" for name, version in versions().items()}
