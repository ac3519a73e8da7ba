from pathlib import Path

from overread.ensemble.gain import GAIN, Gain
from overread.records import TrialConfig, TrialOutcome, VariantScore
from overread.tracking import fields

CONFIG = TrialConfig(
    architecture="unetmer",
    options={"scales": [1, 2], "width": 8},
    losses={"dice": 0.5},
    in_channels=1,
    classes=2,
    patch_size=(32, 48),
    train_seconds=3.0,
)


def test_safe_replaces_what_mlflow_refuses() -> None:
    assert fields.safe("dice_left [a], (b)") == "dice_left _a__ _b_"
    assert fields.safe("variant_dice/scale_2") == "variant_dice/scale_2"


def test_config_params_are_flat_and_without_none() -> None:
    params = fields.config_params(CONFIG)
    assert params["options.scales"] == "[1, 2]"
    assert params["optimiser.name"] == "adamw"
    assert params["patch_size"] == "[32, 48]"
    assert params["mixed_precision"] == "true"
    assert "steps" not in params
    assert not any("schema_version" in key for key in params)


def test_long_values_are_cut_as_mlflow_would() -> None:
    assert len(fields.flatten({"a": "x" * 7000})["a"]) == 6000


def test_final_metrics_name_every_variant() -> None:
    main = VariantScore(variant="main", dice=0.8, dice_per_class={"a": 0.8, "b": None}, cases=3, seconds_per_case=0.1)
    small = VariantScore(variant="scale_2", dice=0.7, dice_per_class={"a": 0.7}, cases=3, seconds_per_case=0.05)
    outcome = TrialOutcome(
        trial_id="t", config=CONFIG, state="finished", variants=(main, small), parameters=10, seconds=2.0, workers=2
    )
    assert fields.final_metrics(outcome) == {
        "parameters": 10.0,
        "total_seconds": 2.0,
        "workers": 2.0,
        "dice": 0.8,
        "variant_dice/main": 0.8,
        "variant_seconds_per_case/main": 0.1,
        "variant_cases/main": 3.0,
        "variant_class_dice/main/a": 0.8,
        "variant_dice/scale_2": 0.7,
        "variant_seconds_per_case/scale_2": 0.05,
        "variant_cases/scale_2": 3.0,
        "variant_class_dice/scale_2/a": 0.7,
    }


def test_a_gain_is_told_where_it_was_measured(tmp_path: Path) -> None:
    assert fields.gain_metrics(tmp_path) == {}
    Gain(members=("a", "b"), dice=0.8, gain=0.1, error=0.02, aurc=0.1, aurc_gain=0.05).save(tmp_path / GAIN)
    assert fields.gain_metrics(tmp_path) == {
        "gain": 0.1,
        "gain_error": 0.02,
        "gain_aurc": 0.05,
        "gain_dice": 0.8,
        "gain_members": 2.0,
    }


def test_trial_files_are_those_that_exist(tmp_path: Path) -> None:
    outcome = TrialOutcome(trial_id="t", config=CONFIG, state="failed", weights="weights.safetensors")
    (tmp_path / "weights.safetensors").touch()
    assert fields.trial_files(outcome, tmp_path) == (tmp_path / "weights.safetensors",)
