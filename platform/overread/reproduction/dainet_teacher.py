"""The DINO teacher of the experiments of DAI-Net: pretraining, stored attention maps, their tables and pictures.

The teacher is pretrained before the rows on the training images of the split (and the unlabelled ones of other
patients); its maps are stored once for every case, and each look for them is noted.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from overread.architectures import Segmenter, build_segmenter
from overread.architectures.attention_maps import VERSION, AttentionOptions
from overread.architectures.dai_net import ATTENTION
from overread.architectures.vit import ViTOptions
from overread.cluster.tasks import on_gpus
from overread.data.store import load_prepared
from overread.jsonio import JsonRecord, fingerprint
from overread.records import Extra, Needs, Prepared, TrialConfig
from overread.reproduction.paper import Made, Setting
from overread.reproduction.results import Findings
from overread.review import figures
from overread.review.tables import Grid
from overread.search.pretraining import pretrain_teacher
from overread.tracking.pretraining import PretrainTracker
from overread.training.dino import PretrainConfig
from overread.training.extras import case_extras, explained, extras_seconds, lacking_cases, stored_extras
from overread.training.multi_crop import MultiCrop
from overread.training.pretrained import load_pretrained
from overread.training.pretraining import OUTCOME, PretrainOutcome, attention_options

MAPS = "maps.json"
"""What each call that asked for the maps found and computed, beside the teacher."""
PRETRAINING = {
    "paper": PretrainConfig(),
    "small": PretrainConfig(
        vit=ViTOptions(size="tiny", patch=8, depth=4),
        crops=MultiCrop(size=96, local_crops=0, intensity=0.2),
        outputs=256,
        hidden=512,
        bottleneck=128,
        head_batch_norm=True,
        batch_size=16,
        epochs=20,
        learning_rate=5e-4,
        warm_up_epochs=1,
        teacher_temperature=0.04,
        momentum=0.99,
    ),
}
"""`small`: with DINO's own settings, batches of 16 slices of one organ collapsed to even outputs within four epochs."""
log = logging.getLogger(__name__)


def make_teacher(setting: Setting) -> Made | None:
    """Pretrain the teacher and store the maps of every case, as far as that is not done; None: it is not finished."""
    config = replace(PRETRAINING[setting.size], seed=setting.seed)
    key = fingerprint({"config": config.to_json(), "data": setting.prepared.content, "input": VERSION})[:12]
    folder, tracker = setting.folder / f"teacher-{key}", setting.tracker
    outcome = pretrain_teacher(
        setting.prepared,
        config,
        folder,
        gpus_per_worker=setting.gpus,
        deadline=setting.deadline,
        tracker=PretrainTracker(tracker.uri, tracker.experiment, tracker.search_id),
    )
    if outcome is None or outcome.state != "finished":
        return None
    options = {ATTENTION: attention_options(folder, setting.prepared).to_json()}
    _store_maps(setting, options, folder)
    return Made(options=options, folder=folder)


@dataclass(frozen=True, kw_only=True)
class MapItem(JsonRecord):
    """One case whose maps are to be stored."""

    prepared: str
    """Folder of the prepared data set."""
    config: TrialConfig
    """Of any network with these maps."""
    case: str
    device: str = "cpu"


def store_maps(item: MapItem) -> int:
    """Store the maps of one case; return 1, or 0 where they were there."""
    segmenter = _teacher(json.dumps(item.config.to_json(), sort_keys=True), item.device)
    prepared = load_prepared(Path(item.prepared))
    lacking = lacking_cases(segmenter.needs, prepared, [item.case])
    case_extras(segmenter, prepared, item.case)
    return len(lacking)


@lru_cache(maxsize=1)
def _teacher(config: str, device: str) -> Segmenter:
    """Return a network with its teacher; a process reads the file once."""
    return load_pretrained(build_segmenter(TrialConfig.from_json(json.loads(config)))).to(device)


@dataclass(frozen=True, kw_only=True)
class MapCall(JsonRecord):
    """One look for the maps of all cases."""

    found: int
    """Cases whose maps were stored."""
    computed: int
    """Those whose maps were computed then."""
    seconds: float
    """Wall time of looking and computing."""


@dataclass(frozen=True, kw_only=True)
class MapCalls(JsonRecord):
    """`maps.json`: all looks so far, the first before anything was computed in this folder."""

    calls: tuple[MapCall, ...] = ()


def _map_calls(folder: Path) -> tuple[MapCall, ...]:
    return MapCalls.load(folder / MAPS).calls if (folder / MAPS).is_file() else ()


def _needed_maps(options: Mapping[str, Any]) -> Needs:
    """Return what is stored of the maps that rows with these options take."""
    attention = AttentionOptions.from_json(options[ATTENTION])
    return Needs(extras={ATTENTION: Extra(channels=attention.vit.heads, key=attention.key)})


def _store_maps(setting: Setting, options: dict[str, Any], folder: Path) -> None:
    """Store the maps of all cases in parallel, and note what was there.

    Where some had to be computed it looks again, as a second call would: that this finds all is measured, not assumed.
    """
    prepared = setting.prepared
    config = TrialConfig(
        architecture="dai_net",
        options=options | {"width": 1},
        in_channels=len(prepared.preprocessing.channels),
        classes=prepared.classes,
        patch_size=(16, 16),
        steps=1,
    )
    device = "cuda" if setting.gpus else "cpu"
    case_ids, needs = [case.id for case in prepared.cases], _needed_maps(options)
    for _ in range(2):
        started, computed = time.perf_counter(), 0
        lacking = lacking_cases(needs, prepared, case_ids)
        if lacking:
            log.info("%s", explained(needs, prepared, lacking))  # here: what tasks log is not seen
            items = [MapItem(prepared=prepared.root, config=config, case=case, device=device) for case in lacking]
            computed = sum(on_gpus(setting.map_cases, setting.gpus)(store_maps, items, "Attention maps"))
        seconds = time.perf_counter() - started
        call = MapCall(found=len(case_ids) - len(lacking), computed=computed, seconds=seconds)
        MapCalls(calls=(*_map_calls(folder), call)).save(folder / MAPS)
        if not lacking:
            break


def pretraining_tables(findings: Findings) -> tuple[Grid, ...]:
    """Return what the teacher and the maps took, and the teacher's curve; nothing while there is no teacher."""
    if findings.made is None:
        return ()
    columns = {"loss": ".4f", "teacher_entropy": ".3f", "teacher_spread": ".3f", "agreement": ".3f"}
    names, curve = (name.replace("_", " ") for name in columns), _curve_rows(findings.made.folder, columns)
    return (
        Grid("Pretraining of the teacher", ("what", "value"), _facts(findings.made, findings.prepared)),
        Grid("Curve of the pretraining", ("epoch", "step", *names), curve),
    )


def _facts(made: Made, prepared: Prepared) -> tuple[tuple[str, str], ...]:
    outcome = PretrainOutcome.load(made.folder / OUTCOME)
    config, vit = outcome.config, outcome.config.vit
    return (
        ("ViT", f"{vit.width} channels, {vit.depth} blocks, {vit.heads} heads: {vit.heads} map channels (paper: 6)"),
        ("patch", f"{vit.patch} pixels"),
        ("image side", f"{config.crops.size} pixels"),
        ("start", "random weights (paper: DINO's of ImageNet)" if config.start is None else str(config.start)),
        ("head", f"{config.outputs:,} outputs, {'with' if config.head_batch_norm else 'no'} batch normalisation"),
        ("temperature of the teacher", f"{config.first_teacher_temperature:g} to {config.teacher_temperature:g}"),
        ("momentum of the teacher", f"{config.momentum:g} to 1"),
        ("epochs", f"{config.epochs}"),
        ("cases seen", f"{len(outcome.cases)} of {len(outcome.groups)} patients"),
        ("slices", f"{outcome.images:,}"),
        ("steps", f"{outcome.steps:,} of {config.batch_size} slices in {outcome.seconds:.0f} s"),
        ("entropy of even outputs, nats", f"{math.log(config.outputs):.3f}"),
        ("collapse", outcome.warning or "none"),
        *_map_facts(made, prepared),
    )


def _map_facts(made: Made, prepared: Prepared) -> list[tuple[str, str]]:
    """Return what the maps took, as is noted beside those of each case, and what the calls found and computed."""
    seconds = extras_seconds(_needed_maps(made.options), prepared, [case.id for case in prepared.cases])
    facts = []
    if seconds:
        text = f"{sum(seconds) / len(seconds):.2f} on average, {max(seconds):.2f} at most"
        facts.append(("maps, s per case", f"{text} ({len(seconds)} cases, each computed once and stored)"))
    calls = _map_calls(made.folder)
    for number, call in enumerate(calls, start=1):
        if call.computed or number == len(calls):
            text = f"{call.found} found, {call.computed} computed, {call.seconds:.2f} s"
            facts.append((f"maps, look {number}", text))
    return facts


def _curve_rows(folder: Path, columns: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (str(report.epoch), str(report.step), *(f"{report.metrics[name]:{form}}" for name, form in columns.items()))
        for report in PretrainOutcome.load(folder / OUTCOME).epochs
    )


def pretraining_curve(findings: Findings, folder: Path) -> Path | None:
    """The loss and the teacher's entropy over the pretraining."""
    if findings.made is None:
        return None
    epochs = PretrainOutcome.load(findings.made.folder / OUTCOME).epochs
    path = folder / "pretraining.png"
    with figures.drawing(path, 5, 3.6, 2) as axes:
        for ax, names in zip(axes[0], (("loss",), ("teacher_entropy", "teacher_spread")), strict=True):
            series = {n.replace("_", " "): [(float(e.epoch), e.metrics[n]) for e in epochs] for n in names}
            figures.lines(ax, series, "DINO pretraining", "epoch", "nats")
    return path


def map_pictures(findings: Findings, folder: Path) -> Path | None:
    """The attention maps of test cases of three patients, head by head."""
    if findings.made is None:
        return None
    needs, prepared = _needed_maps(findings.made.options), findings.prepared
    by_patient = {prepared.case(case_id).group: case_id for case_id in reversed(prepared.splits.locked)}
    panels = []
    for case_id in list(by_patient.values())[:-4:-1]:
        image, (place, truth) = findings.shown_slice(case_id)
        panels.append(figures.Contoured(case_id, image, {"truth": truth}))
        maps = stored_extras(needs, prepared, case_id)
        for head, found in enumerate(maps[ATTENTION][:, place] if maps else (), 1):
            panels.append(figures.Contoured(f"head {head}", found.numpy(), {"truth": truth}))
    return figures.contoured(folder / "attention-maps.png", panels, columns=1 + needs.extras[ATTENTION].channels)
