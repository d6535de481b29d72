"""Seeds for each purpose, unrelated and always the same."""

from typing import get_args

import pytest
import torch

from lenet_cifar10.randomness import Purpose, generator_for, mix


@pytest.mark.parametrize(
    ("seed", "epoch", "purpose", "value"),
    [
        (0, 0, "weights", 2870278531955881525),
        (0, 1, "order", 387996536518130474),
        (1, 0, "order", 3508820495212501243),
        (4294967295, 10000, "dropout", 2040299678058446034),
    ],
)
def test_the_same_triple_always_gives_this_seed(seed: int, epoch: int, purpose: Purpose, value: int) -> None:
    assert mix(seed, epoch, purpose) == value


def test_seeds_are_different_and_fit_in_63_bits() -> None:
    triples = [(seed, epoch, purpose) for seed in range(30) for epoch in range(30) for purpose in get_args(Purpose)]
    seeds = {mix(*triple) for triple in triples}
    assert len(seeds) == len(triples)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numbers_that_join_to_the_same_digits_stay_apart() -> None:
    assert mix(1, 11, "order") != mix(11, 1, "order")


def test_a_generator_repeats_its_numbers() -> None:
    first, again = (torch.randperm(6, generator=generator_for(0, 1, "order")).tolist() for _ in range(2))
    assert first == again == [1, 5, 4, 3, 0, 2]


def test_a_generator_is_on_the_cpu() -> None:
    assert generator_for(0, 1, "order").device.type == "cpu"


def test_drawing_from_one_generator_leaves_the_others_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    order, dropout = generator_for(0, 1, "order"), generator_for(0, 1, "dropout")
    alone = torch.rand(4, generator=generator_for(0, 1, "dropout"))
    torch.rand(100, generator=order)
    assert torch.equal(torch.rand(4, generator=dropout), alone)
    assert torch.equal(torch.get_rng_state(), state)
