from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overread.architectures.vit import ViTOptions
from overread.errors import UserError
from overread.training.augment import Share
from overread.training.dino import CropNorm, Dino, DinoHead, DinoNetwork, Pace, PretrainConfig, collapse, entropies
from overread.training.multi_crop import MultiCrop

SMALL = PretrainConfig(
    vit=ViTOptions(size="tiny", patch=16, depth=1),
    crops=MultiCrop(size=32, local_size=16, local_crops=1),
    outputs=6,
    hidden=8,
    bottleneck=4,
    batch_size=3,
    epochs=10,
    warm_up_epochs=2,
    temperature_epochs=2,
)
PACE = Pace(learning_rate=1e-3, weight_decay=0.04, momentum=0.9, teacher_temperature=0.04, frozen=False)


def made(config: PretrainConfig = SMALL) -> Dino:
    torch.manual_seed(0)
    return Dino(config, torch.device("cpu"), lambda module: module)


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 1, side, side, generator=generator) for side in (32, 32, 16)]


def step(dino: Dino, pace: Pace = PACE) -> dict[str, Tensor]:
    return dino.step(crops(), pace, Share(3), nullcontext())


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_schedules_by_hand() -> None:
    first, risen, last = (Pace.at(SMALL, at, 5) for at in (0, 10, 49))  # 10 epochs of 5 steps
    assert first.learning_rate == pytest.approx(1e-4 / 10)  # the first of 10 steps of warm-up
    assert Pace.at(SMALL, 9, 5).learning_rate == pytest.approx(1e-4)
    assert risen.learning_rate == pytest.approx(1e-4)
    assert Pace.at(SMALL, 30, 5).learning_rate == pytest.approx((1e-4 + 1e-6) / 2)  # half of the 40 steps after it
    assert (first.weight_decay, first.momentum) == pytest.approx((0.04, 0.996))
    assert Pace.at(SMALL, 25, 5).weight_decay == pytest.approx(0.22)
    assert Pace.at(SMALL, 25, 5).momentum == pytest.approx(0.998)
    assert last.weight_decay == pytest.approx(0.4, abs=1e-3)
    temperatures = [Pace.at(SMALL, at, 5).teacher_temperature for at in (0, 4, 5, 10, 49)]
    assert temperatures == pytest.approx([0.04, 0.04, 0.055, 0.07, 0.07])
    assert [Pace.at(SMALL, at, 5).frozen for at in (0, 4, 5)] == [True, True, False]
    plain = replace(SMALL, warm_up_epochs=0, temperature_epochs=0)
    assert Pace.at(plain, 0, 5).learning_rate == pytest.approx(1e-4)
    assert Pace.at(plain, 0, 5).teacher_temperature == pytest.approx(0.07)


def test_the_head_gives_cosines_with_its_directions() -> None:
    torch.manual_seed(0)
    head, x = DinoHead(5, SMALL), torch.randn(7, 5)
    with torch.no_grad():
        head.directions[2] *= 100  # the length of a direction does not matter
        bottleneck = head.mlp(x)
        cosines = nn.functional.cosine_similarity(bottleneck[:, None], head.directions[None], dim=2)
        torch.testing.assert_close(head(x), cosines)


def test_batch_norm_of_the_head_by_hand() -> None:
    norm, x = CropNorm(2), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    with torch.no_grad():
        norm.weight[0], norm.bias[1] = 2.0, 7.0
    torch.testing.assert_close(norm(x), torch.tensor([[-2.0, 7.0], [2.0, 7.0]]))  # mean 2, deviation 1, and 0, 0
    head = DinoHead(5, replace(SMALL, head_batch_norm=True))
    torch.manual_seed(0)
    x = torch.randn(7, 5)
    # what all crops share is gone in the hidden layer, so it cannot make their outputs alike
    torch.testing.assert_close(head(x + 10 * torch.randn(5)), head(x))


def test_views_of_one_size_go_through_the_vit_together_in_order() -> None:
    torch.manual_seed(0)
    network = DinoNetwork(SMALL).eval()
    found = network.outputs(crops())
    assert found.shape == (3, 3, 6)
    for view, output in zip(crops(), found, strict=True):
        torch.testing.assert_close(output, network.outputs([view])[0])


class Fixed(DinoNetwork):
    """Gives outputs that are set from outside."""

    fixed: Tensor

    def outputs(self, views: Any) -> Tensor:
        return self.fixed


def test_the_loss_by_hand() -> None:
    # one image, two outputs, three views; the temperature 0.1 makes logits of log 3, 0 and -log 3
    network = Fixed(SMALL)
    third = math.log(3) / 10
    network.fixed = torch.tensor([[[third, 0.0]], [[0.0, 0.0]], [[0.0, third]]])
    targets = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]])
    losses = network([torch.empty(0)] * 3, targets)
    # student's probabilities: (3/4, 1/4), (1/2, 1/2), (1/4, 3/4)
    pairs = [
        math.log(2),  # teacher 1 with student 2
        math.log(4),  # teacher 1 with student 3
        -0.25 * math.log(0.75) - 0.75 * math.log(0.25),  # teacher 2 with student 1
        -0.25 * math.log(0.25) - 0.75 * math.log(0.75),  # teacher 2 with student 3
    ]
    assert float(losses["loss"]) == pytest.approx(sum(pairs) / 4, rel=1e-5)
    # teacher 1 prefers output 1, student 2 has a tie and takes the first; teacher 2 output 2, student 1 output 1
    assert float(losses["agreement"]) == 0.5


def test_the_teacher_starts_as_the_student_is_frozen_and_follows() -> None:
    dino = made()
    before, start = copied(dino.teacher), copied(dino.student)
    assert all(torch.equal(before[name], start[name]) for name in start)
    assert not any(parameter.requires_grad for parameter in dino.teacher.parameters())
    step(dino)
    for name, student in dino.student.state_dict().items():
        torch.testing.assert_close(dino.teacher.state_dict()[name], 0.9 * before[name] + 0.1 * student)
        assert not torch.equal(student, before[name])


def test_the_centre_is_a_moving_mean_of_the_teachers_outputs_and_is_subtracted() -> None:
    dino = made()
    outputs = dino.teacher.outputs(crops()[:2]).mean((0, 1))
    step(dino, replace(PACE, momentum=1.0))
    torch.testing.assert_close(dino.centre, 0.1 * outputs)
    step(dino, replace(PACE, momentum=1.0))
    torch.testing.assert_close(dino.centre, 0.19 * outputs)
    dino.centre = dino.teacher.outputs(crops()[:2])[0, 0].clone()  # what is the centre gives an even output
    targets, mean = dino._targets(crops()[:2], PACE, Share(3))
    torch.testing.assert_close(targets[0, 0], torch.full((6,), 1 / 6))
    torch.testing.assert_close(mean, targets.mean((0, 1)))


def test_the_last_layer_rests_while_it_is_frozen() -> None:
    dino = made()
    before = dino.student.head.directions.detach().clone()
    step(dino, replace(PACE, frozen=True))
    assert torch.equal(dino.student.head.directions, before)
    step(dino)
    assert not torch.equal(dino.student.head.directions, before)


def test_rates_and_decay_of_the_step_hold_and_biases_and_norms_do_not_decay() -> None:
    dino = made()
    step(dino, replace(PACE, learning_rate=0.5, weight_decay=0.3))
    decayed, others = dino.optimiser.param_groups
    assert [(group["lr"], group["weight_decay"]) for group in (decayed, others)] == [(0.5, 0.3), (0.5, 0.0)]
    names = {id(parameter): name for name, parameter in dino.student.named_parameters()}
    assert {names[id(p)].rpartition(".")[2] for p in others["params"]} == {"bias", "weight"}
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_the_gradient_of_each_parameter_is_clipped_by_itself() -> None:
    dino = made(replace(SMALL, gradient_clip=1e-3))
    step(dino)
    norms = [float(parameter.grad.norm()) for parameter in dino.student.parameters() if parameter.grad is not None]
    assert max(norms) == pytest.approx(1e-3, rel=1e-2)
    assert sum(norm > 0.9e-3 for norm in norms) > 5  # not one norm over all


def test_entropies_by_hand() -> None:
    sharp = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    found = entropies(sharp, torch.tensor([0.5, 0.5]))
    assert float(found["entropy"]) == 0
    assert float(found["spread"]) == pytest.approx(math.log(2))
    even = entropies(torch.full((2, 3, 4), 0.25), torch.full((4,), 0.25))
    assert [float(even[name]) for name in ("entropy", "spread")] == pytest.approx([math.log(4)] * 2)


def test_collapse_is_said_in_words() -> None:
    full = math.log(64)
    assert collapse(0.5 * full, 0.9 * full, 64) is None
    assert collapse(0.0, 0.9 * full, 64) is None  # sharp for each image, and different between images
    one, even = collapse(0.001, 0.002, 64), collapse(0.999 * full, full, 64)
    assert one is not None
    assert even is not None
    assert "one output for all images (entropy 0.001 of 4.159 nats)" in one
    assert "same even output" in even
    # the outputs of all images are one distribution, neither sharp nor even: mean entropy and entropy of the mean agree
    same = torch.tensor([0.5, 0.25, 0.125, 0.125]).expand(2, 3, 4)
    figures = entropies(same, same.mean((0, 1)))
    assert float(figures["entropy"]) == pytest.approx(1.75 * math.log(2))
    said = collapse(float(figures["entropy"]), float(figures["spread"]), 4)
    assert said is not None
    assert "nearly the same output for all images (they tell apart 0.000 of 1.386 nats)" in said
    assert collapse(0.5 * full, 0.515 * full, 64) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 1}, "outputs must be at least 2"),
        ({"epochs": 0}, "epochs"),
        ({"warm_up_epochs": -1}, "warm_up_epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"teacher_temperature": 0.01}, "must not fall"),
        ({"momentum": 1.5}, "momentum"),
        ({"crops": {"size": 40}}, "size of the crops must be a multiple of the patch, 16"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PretrainConfig.from_json(options)
