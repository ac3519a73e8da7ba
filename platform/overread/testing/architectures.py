"""The contract suite of Segmenters: every registered architecture passes it, as should a plug-in.

Inherit from `ArchitectureContract` in a test module and set the attributes:

    class TestUNet(ArchitectureContract):
        name = "unet"
        options = {"width": 4, "depth": 3}
        size = (16, 24)
"""

# ruff: noqa: D102  (the names of the tests say what must hold)

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from overread.architectures import ARCHITECTURES, Segmenter, build_segmenter, count_parameters
from overread.errors import UserError
from overread.records import MAIN, Batch, Needs, TrialConfig

BATCH = 3


def toy_batch(
    size: tuple[int, ...],
    *,
    channels: int = 1,
    classes: int = 3,
    annotators: int = 1,
    samples: int = BATCH,
    seed: int = 0,
    needs: Needs | None = None,
) -> Batch:
    """Return random images whose labels are the bright parts of their first channel: rare, learnable by any network.

    What `needs` names comes with them: a partner, at least two annotators, instances (the label as one), extras.
    """
    needs = needs or Needs()
    annotators = max(annotators, 2) if needs.annotators else annotators
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, channels, *size, generator=generator)
    shifts = torch.linspace(0, 0.3, annotators).reshape(1, -1, *[1] * len(size))
    heights = torch.linspace(0.7, 1.4, classes - 1)
    labels = torch.stack([images[:, :1] + shifts > height for height in heights]).sum(0).to(torch.uint8)
    partner = replace(needs, pairs=False)
    settings: dict[str, Any] = {"channels": channels, "classes": classes, "annotators": annotators, "samples": samples}
    return Batch(
        images=images,
        labels=labels,
        valid=torch.ones(samples, annotators, dtype=torch.bool),
        extras={
            name: torch.randn(samples, extra.channels, *size, generator=generator)
            for name, extra in needs.extras.items()
        },
        partner=toy_batch(size, **settings, seed=seed + 1, needs=partner) if needs.pairs else None,
        instances=(labels[:, 0] > 0).int() if needs.instances else None,
    )


def raised(call: Callable[[], object]) -> str:
    """Return the text of the `UserError` that `call` must raise."""
    try:
        call()
    except UserError as error:
        return str(error)
    raise AssertionError("a UserError must be raised, but nothing was")


class ArchitectureContract:
    """What the training loop, the search and the ensemble rely on, for one architecture at one small setting."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    losses: ClassVar[Mapping[str, float]] = {}
    size: ClassVar[tuple[int, ...]] = (32, 32)
    classes: ClassVar[int] = 3
    in_channels: ClassVar[int] = 2
    module: ClassVar[str] = ""
    """Stem of the architecture's module, where its name does not start with it."""

    def config(self, **changes: Any) -> TrialConfig:
        """Return the trial config under test, with changes."""
        settings: dict[str, Any] = {
            "architecture": self.name,
            "options": dict(self.options),
            "losses": dict(self.losses),
            "spatial_dims": len(self.size),
            "in_channels": self.in_channels,
            "classes": self.classes,
            "patch_size": self.size,
            "steps": 1,
        }
        return TrialConfig(**(settings | changes))

    def build(self, **changes: Any) -> Segmenter:
        """Return the Segmenter under test, in training mode."""
        return build_segmenter(self.config(**changes))

    def ready(self) -> Segmenter:
        """Return it in evaluation mode, with running statistics of real data."""
        segmenter = self.build()
        with torch.no_grad():
            for part in range(segmenter.parts()):
                segmenter(self.batch(), part)
        return segmenter.eval()

    def needs(self) -> Needs:
        """Return the needs of the Segmenter under test, without allocating it."""
        with torch.device("meta"):
            return self.build().needs

    def batch(self, **changes: Any) -> Batch:
        """Return a batch that fits, with all that the Segmenter needs."""
        settings: dict[str, Any] = {"channels": self.in_channels, "classes": self.classes, "needs": self.needs()}
        return toy_batch(self.size, **(settings | changes))

    def test_registered_in_the_module_of_its_name(self) -> None:
        stem = ARCHITECTURES[self.name].segmenter.__module__.rpartition(".")[2]
        assert stem == self.module if self.module else f"{self.name}_".startswith(f"{stem}_")

    def test_options_survive_json_and_unknown_ones_are_refused(self) -> None:
        record = ARCHITECTURES[self.name].options
        options = record.from_json(self.options)
        assert record.from_json(options.to_json()) == options
        assert "bogus" in raised(lambda: self.build(options={**self.options, "bogus": 1}))

    def test_a_seed_gives_the_weights_and_leaves_the_callers_random_state_alone(self) -> None:
        before = torch.get_rng_state()
        first, again, other = self.build(seed=1), self.build(seed=1), self.build(seed=2)
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))

    def test_counts_the_same_without_allocating(self) -> None:
        with torch.device("meta"):
            count = count_parameters(self.build())
        assert count == count_parameters(self.build())

    def test_every_part_gives_a_finite_loss_and_reaches_every_parameter(self) -> None:
        segmenter = self.build()
        for part in range(segmenter.parts()):
            segmenter.zero_grad(set_to_none=True)
            losses = segmenter(self.batch(annotators=2), part)
            losses["loss"].backward()
            assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
            assert not any(value.requires_grad for term, value in losses.items() if term != "loss")
            missing = [n for n, p in _trained(segmenter).items() if p.grad is None or not p.grad.isfinite().all()]
            assert missing == []

    def test_the_loss_is_a_mean_over_samples(self) -> None:
        segmenter, batch = self.ready(), self.batch()
        with torch.no_grad():
            for part in range(segmenter.parts()):
                single = [segmenter(_sample(batch, i), part)["loss"] for i in range(BATCH)]
                torch.testing.assert_close(segmenter(batch, part)["loss"], torch.stack(single).mean())

    def test_annotators_who_did_not_annotate_do_not_count(self) -> None:
        segmenter, batch = self.ready(), self.batch(annotators=3)
        masked = batch.map(valid=lambda valid: torch.cat([valid[:, :2], torch.zeros_like(valid[:, 2:])], 1))
        other = replace(masked, labels=torch.cat([batch.labels[:, :2], 1 - batch.labels[:, 2:].clamp_max(1)], 1))
        alone = replace(masked, labels=batch.labels[:, :2], valid=batch.valid[:, :2])
        with torch.no_grad():
            expected = segmenter(masked)["loss"]
            torch.testing.assert_close(segmenter(other)["loss"], expected)
            if not segmenter.needs.annotators:  # their number is free
                torch.testing.assert_close(segmenter(alone)["loss"], expected)
                assert not torch.allclose(segmenter(batch)["loss"], expected)

    def test_learns_a_toy_batch(self) -> None:
        segmenter, batch = self.build(), self.batch()
        optimiser = torch.optim.Adam(segmenter.parameters(), lr=1e-2)
        history = []
        for _ in range(25):
            optimiser.zero_grad()
            total = 0.0
            for part in range(segmenter.parts()):
                loss = segmenter(batch, part)["loss"]
                loss.backward()
                total += loss.item()
            optimiser.step()
            history.append(total)
        assert min(history[-3:]) < 0.8 * history[0]

    def test_loss_weights_are_checked(self) -> None:
        assert "bogus" in raised(lambda: self.build(losses={"bogus": 1.0}))
        none = dict.fromkeys(type(self.build()).default_losses, 0.0)
        if none:
            assert "> 0" in raised(lambda: self.build(losses=none))

    @torch.no_grad()
    def test_every_variant_reads_probabilities(self) -> None:
        segmenter, batch = self.ready(), self.batch()
        for variant in segmenter.variants():
            probabilities = segmenter.read(batch, variant=variant).probabilities
            assert probabilities.shape == (BATCH, self.classes, *self.size)
            assert probabilities.dtype == torch.float32
            assert not probabilities.requires_grad
            assert probabilities.min() >= 0
            torch.testing.assert_close(probabilities.sum(1), torch.ones(BATCH, *self.size))

    def test_gradients_flow_through_what_is_read(self) -> None:
        segmenter, batch = self.ready(), self.batch()
        batch.images.requires_grad_()
        (gradient,) = torch.autograd.grad(segmenter.read(batch).probabilities[:, 1].sum(), batch.images)
        assert gradient.abs().max() > 0

    @torch.no_grad()
    def test_main_is_the_first_variant_and_the_default(self) -> None:
        segmenter, batch = self.ready(), self.batch()
        names = [variant.name for variant in segmenter.variants()]
        assert names[0] == MAIN
        assert len(set(names)) == len(names)
        assert segmenter.variant(names[-1]) == segmenter.variants()[-1]
        assert names[-1] in raised(lambda: segmenter.variant("bogus"))
        default, main = segmenter.read(batch), segmenter.read(batch, variant=segmenter.variants()[0])
        assert torch.equal(default.probabilities, main.probabilities)

    @torch.no_grad()
    def test_alternatives_are_named_once_and_can_be_asked_for_again(self) -> None:
        readings = self.ready().read(self.batch())
        first, second = list(readings.alternatives()), list(readings.alternatives())
        assert len({name for name, _ in first}) == len(first)
        for (name, probabilities), (again, repeated) in zip(first, second, strict=True):
            assert name == again
            assert torch.equal(probabilities, repeated)
            torch.testing.assert_close(probabilities.sum(1), torch.ones(BATCH, *self.size))

    @torch.no_grad()
    def test_relation_sets_name_what_can_be_read(self) -> None:
        segmenter = self.ready()
        names = {variant.name for variant in segmenter.variants()}
        names |= {name for name, _ in segmenter.read(self.batch()).alternatives()}
        assert {name for pair in segmenter.relation_sets().values() for name in pair} <= names

    def test_what_is_computed_per_case_is_what_is_needed(self) -> None:
        segmenter = self.ready()
        depth = (1, *self.size)[-3:]
        with torch.inference_mode():
            found = segmenter.case_inputs(torch.randn(self.in_channels, *depth))
        wanted = {name: (extra.channels, *depth) for name, extra in segmenter.needs.extras.items()}
        assert {name: tuple(array.shape) for name, array in found.items()} == wanted

    @torch.no_grad()
    def test_a_sample_is_read_alone_and_without_its_labels(self) -> None:
        segmenter, batch = self.ready(), self.batch()
        alone = _sample(batch, 1)
        alone.labels = torch.zeros_like(alone.labels)
        together = segmenter.read(batch).probabilities[1:2]
        torch.testing.assert_close(segmenter.read(alone).probabilities, together, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_weights_can_be_saved_and_loaded(self) -> None:
        segmenter, other = self.ready(), self.build(seed=7).eval()
        other.load_state_dict(copy.deepcopy(segmenter.state_dict()))
        assert torch.equal(segmenter.read(self.batch()).probabilities, other.read(self.batch()).probabilities)

    def test_a_wrong_size_names_the_right_multiple(self) -> None:
        segmenter = self.ready()
        multiple = segmenter.needs.size_multiple
        assert all(side % multiple == 0 for side in self.size)
        wrong = toy_batch(
            tuple(side + 1 for side in self.size),
            channels=self.in_channels,
            classes=self.classes,
            needs=segmenter.needs,
        )
        if multiple > 1:
            message = raised(lambda: segmenter.read(wrong))
            assert f"multiples of {multiple}" in message
            assert str(self.size[0] + multiple) in message

    @torch.no_grad()
    def test_channels_last_reads_the_same(self) -> None:
        segmenter, batch = self.ready(), self.batch()
        expected = segmenter.read(batch).probabilities
        layout: Any = {"memory_format": torch.channels_last if len(self.size) == 2 else torch.channels_last_3d}
        found = segmenter.to(**layout).read(batch.to("cpu", **layout)).probabilities
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    def test_bf16_autocast_trains_and_reads_in_float32(self) -> None:
        segmenter, batch = self.build(), self.batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for part in range(segmenter.parts()):
                segmenter(batch, part)["loss"].backward()
            with torch.no_grad():
                probabilities = segmenter.eval().read(batch).probabilities
        assert probabilities.dtype == torch.float32
        assert all(p.grad is not None and p.grad.isfinite().all() for p in _trained(segmenter).values())

    def test_two_classes_and_one_channel(self) -> None:
        segmenter = self.build(classes=2, in_channels=1)
        batch = self.batch(channels=1, classes=2)
        assert torch.isfinite(segmenter(batch)["loss"])
        assert segmenter.eval().read(batch).probabilities.shape == (BATCH, 2, *self.size)
        assert "at least 2" in raised(lambda: self.build(classes=1))

    def test_spatial_dims_that_are_not_offered_are_refused(self) -> None:
        offered = ARCHITECTURES[self.name].spatial_dims
        if offered != (2, 3):
            (other,) = {2, 3} - set(offered)
            message = raised(lambda: self.build(spatial_dims=other, patch_size=(32,) * other))
            assert f"spatial_dims in {list(offered)}" in message


def _trained(segmenter: Segmenter) -> dict[str, torch.nn.Parameter]:
    """Return the parameters by name, without those that are frozen."""
    return {name: parameter for name, parameter in segmenter.named_parameters() if parameter.requires_grad}


def _sample(batch: Batch, index: int) -> Batch:
    """Return one sample of a batch, as a batch."""

    def part(values: Tensor) -> Tensor:
        return values[index : index + 1]

    return batch.map(images=part, ids=part, valid=part)
