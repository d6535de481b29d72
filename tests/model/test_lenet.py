"""The network: its layers, its input and its dropout."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torchvision import transforms

from lenet_cifar10.common.params import ModelSection
from lenet_cifar10.model.lenet import LeNet, normalize


def make_model(dropout: float = 0.0, classes: int = 10) -> LeNet:
    torch.manual_seed(0)
    return LeNet(ModelSection(dropout=dropout), classes)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_layers_are_those_of_the_published_network() -> None:
    model = make_model()
    assert sum(values.numel() for values in model.parameters()) == 541_094
    assert {name: tuple(values.shape) for name, values in model.state_dict().items()} == {
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


def test_logits_equal_those_of_relu_before_pooling(images: Tensor) -> None:
    model = make_model(classes=7)
    layers = [
        layer
        for convolution in (model.conv1, model.conv2, model.conv3)
        for layer in (convolution, nn.ReLU(), nn.MaxPool2d(2))
    ]
    published = nn.Sequential(*layers, nn.Flatten(), model.hidden, nn.ReLU(), model.output)
    logits = model(images)
    assert logits.shape == (8, 7)
    assert torch.equal(logits, published(normalize(images)))


def test_normalization_equals_that_of_torchvision() -> None:
    every_value = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(3, 32, 32)
    before = every_value.clone()
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    result = normalize(every_value[None])
    assert torch.equal(result[0], torch.as_tensor(steps(every_value.permute(1, 2, 0).numpy())))
    assert torch.equal(every_value, before)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_dropout_zeroes_its_share_in_training_and_nothing_in_eval_mode(images: Tensor) -> None:
    model = make_model(dropout=0.3)
    assert torch.equal(model.eval()(images), make_model(dropout=0.0)(images))
    model.output = nn.Identity()  # type: ignore[assignment]
    hidden, dropped = model.eval()(images), model.train()(images)
    active = hidden > 0
    lost = active & (dropped == 0)
    assert 0.25 < (lost.sum() / active.sum()).item() < 0.35
    torch.testing.assert_close(dropped[~lost], hidden[~lost] / 0.7)


def test_a_gpu_would_neither_wait_nor_mix_devices() -> None:
    """A fake GPU raises on tensors of another device and on anything that needs a value back."""
    with FakeTensorMode(), torch.device("cuda"):
        logits = make_model(dropout=0.5)(torch.zeros(125, 3, 32, 32, dtype=torch.uint8))
        functional.cross_entropy(logits, torch.zeros(125, dtype=torch.int64))
    assert (logits.device.type, logits.dtype, logits.shape) == ("cuda", torch.float32, (125, 10))


def test_the_backward_pass_needs_nothing_of_the_cpu() -> None:
    with torch.device("meta"):
        model = make_model(dropout=0.5)
        model(torch.zeros(125, 3, 32, 32, dtype=torch.uint8)).sum().backward()
    assert all(values.grad is not None and values.grad.is_meta for values in model.parameters())
