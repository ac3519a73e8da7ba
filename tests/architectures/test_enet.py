# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, build_segmenter, count_parameters
from overread.architectures.enet import Bottleneck, Down, ENet, ENetOptions, Up, middle_convolution
from overread.errors import UserError
from overread.records import TrialConfig
from overread.testing.architectures import ArchitectureContract


def count(classes: int, in_channels: int = 3) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["enet"].build({}, in_channels=in_channels, classes=classes))


def silence(module: nn.Module) -> nn.Module:
    """Make the extension of a bottleneck return 0 and its norms do nothing."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    nn.init.zeros_(module.extension[-3].weight)
    return module.eval()


class TestENet(ArchitectureContract):
    name = "enet"
    options = {"width": 4}
    size = (16, 24)


def test_parameters_are_those_of_table_1():
    def bottleneck(inputs: int, outputs: int, middle: int, first: int = 1) -> int:
        inner = outputs // 4
        norms = 2 * inner + 2 * inner + 2 * outputs
        activations = inner + inner + outputs
        return first**2 * inputs * inner + middle * inner**2 + inner + inner * outputs + norms + activations

    context = 6 * bottleneck(128, 128, 9) + 2 * bottleneck(128, 128, 5 + 5)
    assert (
        sum(
            [
                27 * 13 + 13 + 2 * 16 + 16,  # initial
                bottleneck(16, 64, 9, first=2) + 4 * bottleneck(64, 64, 9),  # 1
                bottleneck(64, 128, 9, first=2) + 2 * context,  # 2 and 3
                bottleneck(128, 64, 9) + 128 * 64 + 2 * 64 + 2 * bottleneck(64, 64, 9),  # 4
                bottleneck(64, 16, 9) + 64 * 16 + 2 * 16 + bottleneck(16, 16, 9),  # 5
                4 * 16 * 12 + 12,  # head
            ]
        )
        == ARCHITECTURES["enet"].published_parameters()
        == 364_192
    )
    assert abs(364_192 / 0.37e6 - 1) < 0.02
    assert count(2) == 364_192 - 10 * 65
    assert count(2, in_channels=1) == count(2) - 9 * (3 * 13 - 15) + 2


def test_stages_are_those_of_table_1():
    with torch.device("meta"):
        network = ENet(ENetOptions(), in_channels=3)
    shapes = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out}))
    with torch.device("meta"):
        last = network.coarse(torch.zeros(1, 3, 512, 512))
    found = {name: tuple((out[0] if isinstance(out, tuple) else out).shape[1:]) for name, out in shapes.items()}
    assert found.pop("initial") == (13, 256, 256)
    assert found.pop("initial_activation") == (16, 256, 256)
    assert list(found.values()) == [
        *[(64, 128, 128)] * 2,
        *[(128, 64, 64)] * 3,
        *[(64, 128, 128)] * 2,
        *[(16, 256, 256)] * 2,
    ]
    assert last.shape == (1, 16, 256, 256)
    assert [len(getattr(network, f"stage{i}")) for i in range(1, 6)] == [4, 8, 8, 2, 1]


def test_dropout_is_a_tenth_in_stage_1():
    network = ENet(ENetOptions(dropout=0.2), in_channels=1)
    rates = {
        name: {round(layer.p, 6) for layer in module.modules() if isinstance(layer, nn.Dropout2d)}
        for name, module in network.named_children()
    }
    later = ("down2", "stage2", "stage3", "up4", "stage4", "up5", "stage5")
    expected = {"down1": {0.02}, "stage1": {0.02}, **{name: {0.2} for name in later}}
    assert {name: found for name, found in rates.items() if found} == expected


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [
        ("regular", [2, 3, 4], [2, 3, 4]),
        ("dilated 2", [1, 3, 5], [1, 3, 5]),
        ("asymmetric 5", [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
    ],
)
def test_what_a_middle_convolution_sees(kind, rows, columns):
    layer = middle_convolution(kind, 1)
    for parameter in layer.parameters():
        (nn.init.ones_ if parameter.ndim == 4 else nn.init.zeros_)(parameter)
    x = torch.zeros(1, 1, 7, 7)
    x[0, 0, 3, 3] = 1
    expected = torch.zeros(7, 7)
    expected[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1
    assert torch.equal(layer(x)[0, 0], expected)


def test_a_silent_bottleneck_is_a_prelu():
    x = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2).expand(1, 4, 1, 2)
    assert silence(Bottleneck(4, 0.0, "regular"))(x)[0, 0, 0].tolist() == [1.0, -0.25]


def test_going_down_keeps_the_maxima_and_going_up_returns_them_to_their_places():
    x = torch.tensor([[1.0, 2.0, 0.0, 7.0], [3.0, 0.0, 0.0, 0.0]]).expand(1, 4, 2, 4)
    low, places = silence(Down(4, 8, 0.0))(x)
    assert low[0, :, 0].tolist() == [[3.0, 7.0]] * 4 + [[0.0, 0.0]] * 4
    up = silence(Up(8, 4, 0.0))
    up.main[0].weight.data = torch.eye(8)[:4].reshape(4, 8, 1, 1)
    expected = torch.tensor([[0.0, 0.0, 0.0, 7.0], [3.0, 0.0, 0.0, 0.0]])
    assert torch.equal(up(low, places)[0, 2], expected)


def test_the_head_doubles_the_size_by_a_learned_upsampling():
    config = TrialConfig(
        architecture="enet", options={"width": 4}, in_channels=1, classes=3, patch_size=(16, 16), steps=1
    )
    built = build_segmenter(config).eval()
    images = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    half = built.network.coarse(images)
    assert half.shape == (1, 4, 8, 8)
    # 2 x 2 of stride 2: each pixel becomes four of its own
    expected = torch.einsum("bfhw,fkij->bkhiwj", half, built.head.weight).reshape(1, 3, 16, 16)
    torch.testing.assert_close(built.logits(images), expected + built.head.bias[:, None, None])


def test_an_image_of_more_channels_than_the_first_stage_is_taken():
    network = ENet(ENetOptions(width=4), in_channels=20)
    assert network.feature_channels == 22
    assert network(torch.randn(2, 20, 16, 16)).shape == (2, 22, 16, 16)


@pytest.mark.parametrize(("options", "message"), [({"width": 3}, "width"), ({"dropout": 1.0}, "dropout")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ENetOptions.from_json(options)
