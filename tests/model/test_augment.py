"""`augment` against its oracle, torchvision's functions on one Pillow image at a time, and its draws against chance."""

from importlib.resources import files
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lenet_cifar10.common.params import AugmentSection, PaddingMode
from lenet_cifar10.model import augment
from lenet_cifar10.model.augment import COLOUR_ORDERS, Draws, apply, draw

NONE = AugmentSection(
    flip_probability=0.0,
    translation_pixels=0,
    rotation_degrees=0.0,
    shear_degrees=0.0,
    scale=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    padding_mode="zeros",
)
MILD = NONE.model_copy(
    update={
        "flip_probability": 0.5,
        "translation_pixels": 2,
        "rotation_degrees": 10.0,
        "shear_degrees": 10.0,
        "scale": 0.2,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    }
)
STRONGEST = NONE.model_copy(
    update={
        "flip_probability": 0.5,
        "translation_pixels": 16,
        "rotation_degrees": 45.0,
        "shear_degrees": 45.0,
        "scale": 0.6,
        "brightness": 1.0,
        "contrast": 1.0,
        "saturation": 1.0,
    }
)
STRENGTHS = [name for name in AugmentSection.model_fields if name != "padding_mode"]
ADJUST = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
BOTH_MODES = pytest.mark.parametrize("mode", ["zeros", "symmetric"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_from(section: AugmentSection, count: int, seed: int = 0) -> Draws:
    return draw(count, section, seeded(seed))


def make_draws(rows: list[dict[str, Any]]) -> Draws:
    """Draws with chosen values, one row for each image; what a row leaves out changes nothing."""
    nothing = {
        "flip": False,
        "angle": 0.0,
        "shear": 0.0,
        "scale": 1.0,
        "factors": (1.0, 1.0, 1.0),
        "colour_order": (0, 1, 2),
        "translation": (0, 0),
    }
    return Draws(**{name: np.array([(nothing | row)[name] for row in rows]) for name in nothing})


def apply_pillow(images: Tensor, draws: Draws) -> Tensor:
    """The oracle: torchvision's functions on one Pillow image after the other."""
    results = []
    for index, pixels in enumerate(images):
        image: Any = Image.fromarray(pixels.permute(1, 2, 0).numpy())  # torchvision's annotations know only tensors
        if draws.flip[index]:
            image = functional.hflip(image)
        image = functional.rotate(image, draws.angle[index].item())
        shift, scale = draws.translation[index].tolist(), draws.scale[index].item()
        image = functional.affine(image, 0, shift, scale, [draws.shear[index].item(), 0.0])
        for operation in draws.colour_order[index].tolist():
            image = ADJUST[operation](image, draws.factors[index, operation].item())
        results.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(results)


def apply_pillow_with_margins(images: Tensor, draws: Draws) -> Tensor:
    """The oracle for padding_mode "symmetric": each of Pillow's warps sees wide, mirrored margins."""
    transform, margin = Image.Image.transform, 192

    def transform_padded(image: Image.Image, size: Any, method: Any, matrix: Any, *rest: Any, **more: Any) -> Any:
        padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
        a, b, c, d, e, f = matrix
        moved = (a, b, c + margin, d, e, f + margin)
        return transform(Image.fromarray(padded), size, method, moved, *rest, **more)

    with patch.object(Image.Image, "transform", transform_padded):
        return apply_pillow(images, draws)


def make_noise(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=seeded(9))


def cut_photographs(count: int) -> Tensor:
    """Tiles of the pictures that Matplotlib ships."""
    tiles = []
    for name in ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png"):
        with (files("matplotlib") / "mpl-data" / "sample_data" / name).open("rb") as file:
            pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB")))
        tiles.append(pixels.unfold(0, 32, 32).unfold(1, 32, 32).flatten(0, 1))  # (rows * columns, 3, 32, 32)
    tiles = torch.cat(tiles)
    return tiles[torch.randint(len(tiles), (count,), generator=seeded(7))].contiguous()


def make_extremes(count: int) -> Tensor:
    """All black, all white, and single primary colours."""
    colours = torch.tensor(list(product((0, 255), repeat=3)), dtype=torch.uint8)
    return colours[torch.arange(count) % 8][:, :, None, None].expand(-1, -1, 32, 32)


# Equality with Pillow


@pytest.mark.parametrize("section", [MILD, STRONGEST], ids=["mild", "strongest"])
@pytest.mark.parametrize("make_images", [cut_photographs, make_noise, make_extremes])
def test_images_equal_those_of_torchvision(make_images: Any, section: AugmentSection) -> None:
    images, draws = make_images(600), draw_from(section, 600, seed=1)
    assert torch.equal(apply(images, draws), apply_pillow(images, draws))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_each_change_alone_equals_that_of_torchvision(strength: str) -> None:
    section = NONE.model_copy(update={strength: getattr(STRONGEST, strength)})
    images, draws = cut_photographs(200), draw_from(section, 200, seed=2)
    assert torch.equal(apply(images, draws), apply_pillow(images, draws))


def test_round_values_take_the_special_paths_of_pillow() -> None:
    rows = [
        {"flip": flip, "angle": angle, "shear": shear, "scale": scale, "translation": shift}
        for flip, angle, shear, scale, shift in product(
            (False, True),
            (-45.0, -1e-14, -0.0, 1e-14, 30.0),
            (-45.0, -0.0, 1e-15),
            (0.4, 0.5, 0.8, 1.0, 1.25),
            ((0, 0), (-16, 16)),
        )
    ]
    images, draws = make_noise(len(rows)), make_draws(rows)
    assert torch.equal(apply(images, draws), apply_pillow(images, draws))


def test_every_colour_order_and_the_ends_of_every_factor() -> None:
    rows = [
        {"colour_order": order, "factors": factors}
        for order, factors in product(COLOUR_ORDERS, product((0.0, 0.37, 1.0, 2.0), repeat=3))
    ]
    images, draws = cut_photographs(len(rows)), make_draws(rows)
    assert torch.equal(apply(images, draws), apply_pillow(images, draws))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.fixed_dictionaries(
        {
            "flip": st.booleans(),
            "angle": st.floats(-45, 45),
            "shear": st.floats(-45, 45),
            "scale": st.floats(0.4, 1.6),
            "factors": st.tuples(*[st.floats(0, 2)] * 3),
            "colour_order": st.sampled_from(COLOUR_ORDERS),
            "translation": st.tuples(st.integers(-16, 16), st.integers(-16, 16)),
        }
    )
)
def test_awkward_values_equal_those_of_torchvision(row: dict[str, Any]) -> None:
    images, draws = make_noise(1), make_draws([row])
    assert torch.equal(apply(images, draws), apply_pillow(images, draws))


def test_rounding_in_bulk_is_that_of_python() -> None:
    angles = np.radians(np.concatenate([np.linspace(-45, 45, 20_001), np.linspace(-1e-12, 1e-12, 1001)]))
    values = np.concatenate([np.cos(angles), np.sin(angles)])
    assert augment._round_to_15_digits(values).tolist() == [round(value, 15) for value in values.tolist()]


@pytest.mark.parametrize("section", [MILD, STRONGEST, MILD.model_copy(update={"shear_degrees": 0.0})])
def test_symmetric_padding_equals_that_of_numpy(section: AugmentSection) -> None:
    images, draws = cut_photographs(200), draw_from(section, 200, seed=5)
    assert torch.equal(apply(images, draws, "symmetric"), apply_pillow_with_margins(images, draws))


# What `apply` promises besides


@BOTH_MODES
def test_translation_moves_by_whole_pixels(mode: PaddingMode) -> None:
    images, shifts = make_noise(49), list(product(range(-3, 4), repeat=2))
    moved = apply(images, make_draws([{"translation": shift} for shift in shifts]), mode)
    kind = "symmetric" if mode == "symmetric" else "constant"
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode=kind)
    for image, source, (right, down) in zip(moved.numpy(), padded, shifts, strict=True):
        assert np.array_equal(image, source[:, 3 - down : 35 - down, 3 - right : 35 - right])


@BOTH_MODES
def test_strength_zero_is_a_copy(mode: PaddingMode) -> None:
    images = make_noise(300)
    result = apply(images, draw_from(NONE, 300), mode)
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()
    mixed = make_draws([{}, {"angle": 20.0, "factors": (1.0, 0.5, 1.0)}] * 150)
    assert torch.equal(apply(images, mixed, mode)[::2], images[::2])


def test_images_are_left_as_they_are_and_need_not_be_contiguous() -> None:
    images, draws = cut_photographs(20), draw_from(STRONGEST, 20)
    before = images.clone()
    expected = apply(images, draws)
    assert torch.equal(images, before)
    result = apply(images.contiguous(memory_format=torch.channels_last), draws)
    assert torch.equal(result, expected)
    assert result.is_contiguous()


@pytest.mark.parametrize("count", [0, 1, 129, 300])
def test_an_image_depends_only_on_its_own_draws(count: int) -> None:
    images, draws = make_noise(count), draw_from(MILD, count)
    whole = apply(images, draws, "symmetric")
    cuts = [slice(0, 50), slice(50, 51), slice(51, None)]
    assert torch.equal(torch.cat([apply(images[cut], draws[cut], "symmetric") for cut in cuts]), whole)
    backwards = torch.arange(count).flip(0)
    assert torch.equal(apply(images[backwards], draws[backwards], "symmetric"), whole[backwards])


@BOTH_MODES
def test_a_gpu_would_neither_wait_nor_mix_devices(mode: PaddingMode) -> None:
    """A fake GPU raises on tensors of another device and on anything that needs a value back."""
    draws = draw_from(MILD, 10_000)
    with FakeTensorMode():
        images = torch.zeros(10_000, 3, 32, 32, dtype=torch.uint8, device="cuda")
        result = apply(images, draws, mode)
    assert (result.device.type, result.dtype, result.shape) == ("cuda", torch.uint8, images.shape)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 32, 32),
        torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
        torch.zeros(3, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"and 2 draws, expected uint8 \(N, 3, 32, 32\) and N draws"):
        apply(images, draw_from(MILD, 2))


# Draws

COUNT = 20_000


@pytest.mark.parametrize(
    ("name", "low", "high"), [("angle", -45, 45), ("shear", -45, 45), ("scale", 0.4, 1.6), ("factors", 0, 2)]
)
def test_a_strength_is_uniform_to_either_side(name: str, low: float, high: float) -> None:
    for values in getattr(draw_from(STRONGEST, COUNT), name).reshape(COUNT, -1).T:
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.001


def test_choices_come_equally_often() -> None:
    draws = draw_from(STRONGEST, COUNT)
    for values, count in ((draws.colour_order @ [9, 3, 1], 6), *((axis, 33) for axis in draws.translation.T)):
        _, counts = np.unique(values, return_counts=True)
        assert len(counts) == count
        assert stats.chisquare(counts).pvalue > 0.001
    assert (draws.translation.min(), draws.translation.max()) == (-16, 16)
    assert stats.binomtest(int(draws.flip.sum()), COUNT, 0.5).pvalue > 0.001


def test_draws_and_images_are_independent() -> None:
    draws = draw_from(STRONGEST, COUNT)
    order = draws.colour_order @ [9, 3, 1]
    columns = [draws.flip, draws.angle, draws.shear, draws.scale, *draws.factors.T, order, *draws.translation.T]
    limit = 4.5 / COUNT**0.5  # deviations: the largest of 200 correlations by chance stays below
    values = np.stack(columns).astype(float)
    assert np.abs(np.corrcoef(values) - np.eye(10)).max() < limit
    assert np.abs(np.corrcoef(values[:, :-1], values[:, 1:])[:10, 10:]).max() < limit


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_strength_leaves_the_other_draws(strength: str) -> None:
    first, second = (
        [column for values in vars(draw_from(section, 100)).values() for column in np.atleast_2d(values.T)]
        for section in (STRONGEST, STRONGEST.model_copy(update={strength: 0}))
    )
    changed = [not np.array_equal(one, other) for one, other in zip(first, second, strict=True)]
    assert sum(changed) == (2 if strength == "translation_pixels" else 1)


def test_the_same_generator_state_gives_the_same_draws() -> None:
    generator = seeded(3)
    first, second = (draw(50, MILD, generator) for _ in range(2))
    again = draw_from(MILD, 50, seed=3)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    assert not np.array_equal(first.angle, second.angle)
