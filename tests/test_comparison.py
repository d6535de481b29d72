"""Two tables of answers, worked out by hand."""

from collections.abc import Iterable

import pytest

from lenet_cifar10.comparison import ClassDifference, compare_answers, difference_of_images
from lenet_cifar10.results import Answer
from lenet_cifar10.statistics import compare_pairs, wilson_interval


def tables(outcomes: Iterable[tuple[str, bool, bool]]) -> tuple[list[Answer], list[Answer]]:
    """Answers of two networks from (class, whether the first is right, whether the second is)."""
    both = [
        [
            Answer(index, actual, actual if rights[network] else "another", 0.5)
            for index, (actual, *rights) in enumerate(outcomes)
        ]
        for network in range(2)
    ]
    return both[0], both[1]


# Of 10 images each: cats 8 gained, dogs 1 lost, birds as before.
OUTCOMES = [
    *[("dog", True, True)] * 6,
    *[("dog", True, False)] * 1,
    *[("dog", False, False)] * 3,
    *[("cat", False, True)] * 8,
    *[("cat", True, True)] * 1,
    *[("cat", False, False)] * 1,
    *[("bird", True, True)] * 10,
]


def test_images_are_counted_by_who_was_right() -> None:
    found = compare_answers(*tables(OUTCOMES))
    assert found.count == 30
    assert (found.right_in_both, found.right_in_first_only) == (17, 1)
    assert (found.right_in_second_only, found.wrong_in_both) == (8, 4)
    assert (found.first.value, found.first.interval) == (18 / 30, wilson_interval(18, 30))
    assert (found.second.value, found.second.interval) == (25 / 30, wilson_interval(25, 30))


def test_the_difference_is_that_of_the_flipped_images() -> None:
    found = compare_answers(*tables(OUTCOMES)).paired
    assert found.difference == pytest.approx(7 / 30)
    assert found.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # 0 or 1 heads, or tails, of 9 coins
    assert found == compare_pairs(gained=8, lost=1, count=30)


def test_classes_are_compared_each_for_itself_and_their_p_adjusted() -> None:
    found = compare_answers(*tables(OUTCOMES)).classes
    p_value = 2 / 2**8
    assert found == [
        ClassDifference("bird", 10, 1.0, 1.0, 0.0, 1.0, 1.0, "no"),
        ClassDifference("cat", 10, 0.1, 0.9, 0.8, p_value, 3 * p_value, "up"),
        ClassDifference("dog", 10, 0.7, 0.6, -0.1, 1.0, 1.0, "no"),
    ]


@pytest.mark.parametrize(
    ("lost", "adjusted", "moved"),
    [
        # p = 1/64, 1/32, 1/32, 1: times 4 over the rank, and no more than that of the next rank.
        ((7, 6, 6, 0), [1 / 24, 1 / 24, 1 / 24, 1], ["down", "down", "down", "no"]),
        # p = 1/64, 1/32, 1/16, 1: the first two would be below 0.05, were they the only tests.
        ((7, 6, 5, 0), [1 / 16, 1 / 16, 1 / 12, 1], ["no", "no", "no", "no"]),
    ],
)
def test_which_classes_moved_is_decided_as_by_benjamini_and_hochberg(
    lost: tuple[int, ...], adjusted: list[float], moved: list[str]
) -> None:
    outcomes = []
    for name, count in zip("abcd", lost, strict=True):
        outcomes += [(name, True, False)] * count + [(name, True, True)] * (10 - count)
    found = compare_answers(*tables(outcomes)).classes
    assert [item.adjusted_p_value for item in found] == pytest.approx(adjusted)
    assert [item.moved for item in found] == moved


def test_a_network_does_not_differ_from_itself() -> None:
    first, _ = tables(OUTCOMES)
    found = compare_answers(first, first)
    assert (found.paired.difference, found.paired.p_value) == (0, 1)
    assert {item.moved for item in found.classes} == {"no"}


def test_another_wrong_answer_is_no_flip() -> None:
    found = compare_answers([Answer(0, "cat", "dog", 0.5)], [Answer(0, "cat", "bird", 0.5)])
    assert (found.wrong_in_both, found.paired.p_value) == (1, 1)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ([Answer(4, "cat", "cat", 0.5)], "2 and 1 images"),
        ([Answer(4, "cat", "cat", 0.5), Answer(6, "dog", "cat", 0.5)], "row 2 is of image 5 and of image 6"),
        (
            [Answer(4, "cat", "cat", 0.5), Answer(5, "bird", "cat", 0.5)],
            "image 5 is of class 'dog' and of class 'bird'",
        ),
    ],
)
def test_other_images_are_seen(second: list[Answer], reason: str) -> None:
    first = [Answer(4, "cat", "dog", 0.5), Answer(5, "dog", "dog", 0.5)]
    assert difference_of_images(first, first) is None
    assert difference_of_images(first, second) == reason
    with pytest.raises(ValueError, match=reason):
        compare_answers(first, second)
