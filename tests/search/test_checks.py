from pathlib import Path
from typing import Any

import pytest

from overread.errors import UserError
from overread.search.checks import check_search
from overread.search.settings import SearchSettings
from overread.testing.tiny import tiny_prepared

CPUS, GPUS = 2, 0.0
SPACE = """
POINTS = [{"unet/norm": "none"}]
def suggest(trial, context):
    norm = trial.suggest_categorical("unet/norm", ["batch", "instance"])
    return {"options": {"norm": norm, "width": 8}}
"""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": "nothing"}, "unknown space 'nothing'"),
        ({"architectures": ("unet", "vnet")}, "unknown architecture of this space 'vnet'"),
        ({"workers_per_trial": (1, 3)}, "3 workers share 2 CPUs"),
        ({"cpus": 1, "workers_per_trial": (2,)}, "2 workers share 1 CPUs"),
        ({"max_concurrent": 3}, "3 workers share 2 CPUs"),
        ({"gpus_per_worker": 1.0}, "must find 1 GPU, but the cluster has 0"),
    ],
)
def test_settings_that_cannot_run_are_refused(fields: dict[str, Any], message: str) -> None:
    check_search(SearchSettings(trials=1), CPUS, GPUS)
    with pytest.raises(UserError, match=message):
        check_search(SearchSettings(trials=1, **fields), CPUS, GPUS)


def test_the_fold_and_the_points_are_checked_against_the_data(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path / "data")
    check_search(SearchSettings(trials=1), CPUS, GPUS, prepared)
    with pytest.raises(UserError, match=r"fold must be in 0\.\.1, but got 2"):
        check_search(SearchSettings(trials=1, fold=2), CPUS, GPUS, prepared)
    (tmp_path / "unet.py").write_text(SPACE)
    settings = SearchSettings(trials=1, space="unet", spaces_dir=str(tmp_path))
    check_search(settings, CPUS, GPUS)
    with pytest.raises(UserError, match="points of a space must lie in it"):
        check_search(settings, CPUS, GPUS, prepared)
