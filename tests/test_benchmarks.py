"""The benchmarks: the classic recipe that they share with the Makefile, and the GPU's where there is no GPU."""

from collections.abc import Iterator

import pytest
import torch
from benchmarks import graphs
from benchmarks.columns import Columns
from benchmarks.recipes import make_params, read_classic
from recorder import record
from torch import nn
from training_runs import make_split

from lenet_cifar10.common.params import Params, flatten
from lenet_cifar10.training import steps


def test_the_classic_recipe_names_every_setting_of_the_training(params: Params) -> None:
    """So that a change of the defaults leaves it as it is."""
    classic = read_classic()
    settings = {key for key in flatten(params) if key.startswith(("augment.", "model.", "train."))}
    assert settings - classic.keys() == {"train.threads", "train.micro_batches", "train.cuda_graph"}
    assert make_params(classic).train.optimizer == "adam"


def test_columns_give_a_convolution_and_its_gradients_but_for_rounding() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(16, 32, kernel_size=3, padding=1)
    images = torch.randn(5, 16, 8, 8, requires_grad=True)
    results = []
    for module in (convolution, Columns(convolution)):
        output = module(images)
        results.append((output, *torch.autograd.grad(output.square().sum(), [images, *convolution.parameters()])))
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_every_part_of_the_gpu_s_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "is_recorded", lambda settings, device, world: settings.cuda_graph)
    monkeypatch.setattr(steps.Steps, "record", staticmethod(record))
    machine = graphs.Machine(torch.device("cpu"), make_split(2500), make_split(100, seed=1), "noise", epochs=2)
    verdict: dict[str, str] = {}
    tables = list(graphs.measure(verdict, lambda number: graphs.run_part(number, machine)))
    assert not [table.note for table in tables if "failed" in table.title]
    assert len(tables) == 8
    bits = [found for name, found in verdict.items() if name.startswith(("again", "resumed", "eager"))]
    assert bits == ["equal bits"] * 6
    assert verdict["recipes without effect, 1,000 images"] == "none"


def test_a_failing_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(machine: graphs.Machine) -> Iterator[graphs.Table]:
        yield graphs.Table("before", "", (), [])
        raise ValueError("no kernel")

    monkeypatch.setattr(graphs, "PARTS", (fail, graphs.part_1))
    machine = graphs.Machine(torch.device("cpu"), make_split(), make_split(), "noise")
    verdict: dict[str, str] = {}
    tables = list(graphs.measure(verdict, lambda number: graphs.run_part(number, machine)))
    assert [table.title for table in tables] == ["before", "Part 1 failed", "The machine"]
    assert "no kernel" in tables[1].note
    assert verdict["part 1"] == "FAILED"
