"""The network: its layers, its input and its dropout."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from lenet_cifar10.model import LeNet, normalize, whitening_filters
from lenet_cifar10.params import ModelSection


def make_network(dropout: float = 0.0, classes: int = 10) -> LeNet:
    torch.manual_seed(0)
    return LeNet(ModelSection(dropout=dropout, first_layer="learned"), classes)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_layers_are_those_of_the_published_network() -> None:
    assert {name: tuple(values.shape) for name, values in make_network().state_dict().items()} == {
        "conv1.weight": (16, 3, 3, 3),
        "conv1.bias": (16,),
        "conv2.weight": (32, 16, 3, 3),
        "conv2.bias": (32,),
        "conv3.weight": (64, 32, 3, 3),
        "conv3.bias": (64,),
        "hidden.weight": (500, 1024),
        "hidden.bias": (500,),
        "output.weight": (10, 500),
        "output.bias": (10,),
    }


def test_it_has_541094_parameters() -> None:
    assert sum(values.numel() for values in make_network().parameters()) == 541_094


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_bytes_become_one_float_logit_a_class(images: Tensor, classes: int) -> None:
    logits = make_network(classes=classes)(images)
    assert logits.shape == (8, classes)
    assert logits.dtype == torch.float32


def test_the_logits_are_to_the_bit_those_of_relu_before_pooling(images: Tensor) -> None:
    network = make_network()
    features = normalize(images)
    for layer in (network.conv1, network.conv2, network.conv3):
        features = functional.max_pool2d(
            functional.relu(functional.conv2d(features, layer.weight, layer.bias, padding=1)), 2
        )
    expected = network.output(functional.relu(network.hidden(features.flatten(1))))
    assert torch.equal(network(images), expected)


def test_the_images_given_are_left_as_they_were(images: Tensor) -> None:
    before = images.clone()
    make_network()(images)
    assert torch.equal(images, before)


def test_normalization_is_that_of_torchvision_to_the_bit() -> None:
    every_value = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(3, 32, 32)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    expected = torch.as_tensor(steps(every_value.permute(1, 2, 0).numpy()))
    found = normalize(every_value[None])[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert (found.min(), found.max()) == (-1, 1)


def test_normalized_images_are_channels_last_in_memory(images: Tensor) -> None:
    assert normalize(images).is_contiguous(memory_format=torch.channels_last)


def smooth_images(count: int) -> Tensor:
    """Images whose neighbouring pixels resemble each other, as in photographs."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    return functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)


def test_whitening_filters_give_uncorrelated_values_of_mean_square_1() -> None:
    images = smooth_images(200)
    filters = whitening_filters(images)
    assert filters.shape == (16, 3, 3, 3)
    assert filters.dtype == torch.float32
    # On noise the filters would not: the constant added to each mean square is small beside those of such images only.
    given = functional.conv2d(normalize(images), filters[:8]).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(given @ given.T / given.shape[1], torch.eye(8).double(), rtol=0, atol=0.15)


def test_whitening_filters_are_the_largest_components_with_both_signs() -> None:
    images = smooth_images(50)
    filters = whitening_filters(images)
    assert torch.equal(filters[8:], -filters[:8])
    patches = normalize(images).unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 27).double()
    squares = torch.linalg.svdvals(patches).square()[:8] / len(patches)  # another way to the same components
    norms = filters[:8].flatten(1).double().norm(dim=1).flip(0)
    torch.testing.assert_close(norms, (squares + 0.0005).rsqrt(), rtol=0.001, atol=0)


def test_images_without_contrast_give_finite_filters() -> None:
    assert whitening_filters(torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)).isfinite().all()


def test_a_whitened_first_layer_has_no_bias_and_does_not_learn(images: Tensor) -> None:
    network = make_network()
    network.whiten_first_layer(images)
    assert torch.equal(network.conv1.weight, whitening_filters(images))
    assert not network.state_dict()["conv1.bias"].any()
    network(images).sum().backward()
    learning = {name for name, values in network.named_parameters() if values.grad is not None}
    assert learning == {
        f"{layer}.{kind}" for layer in ("conv2", "conv3", "hidden", "output") for kind in ("weight", "bias")
    }


def test_dropout_is_off_in_eval_mode(images: Tensor) -> None:
    network = make_network(dropout=0.5).eval()
    assert torch.equal(network(images), network(images))
    assert torch.equal(network(images), make_network(dropout=0.0)(images))


def test_dropout_in_training_mode_zeroes_its_share_and_scales_the_rest(images: Tensor) -> None:
    network = make_network(dropout=0.3)
    network.output = nn.Identity()  # type: ignore[assignment]
    hidden, dropped = network.eval()(images), network.train()(images)
    active = hidden > 0
    lost = active & (dropped == 0)
    assert 0.25 < (lost.sum() / active.sum()).item() < 0.35
    torch.testing.assert_close(dropped[~lost], hidden[~lost] / 0.7)


def test_the_same_seed_gives_the_same_weights_and_dropout(images: Tensor) -> None:
    first, again = (make_network(dropout=0.5)(images) for _ in range(2))
    assert torch.equal(first, again)
