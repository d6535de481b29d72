"""lenet-cifar10 predict: image files in, classes out; a line for each file that cannot be read."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import ExifTags, Image
from project import commit, run
from typer.testing import CliRunner, Result

from lenet_cifar10.commands.predict import find_files, predict, printable, rank, read_image
from lenet_cifar10.common.params import ModelSection
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.model import device, scoring
from lenet_cifar10.model.lenet import LeNet
from lenet_cifar10.model.weights import load_weights, save_weights

NAMES = ("cat", "dog", "frog", "ship")
RANDOM = np.random.default_rng(0)
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
QUARTERS = Image.new("RGB", (60, 40))
for _corner, _colour in (((0, 0), RED), ((30, 0), GREEN), ((0, 20), BLUE), ((30, 20), WHITE)):
    QUARTERS.paste(_colour, (*_corner, _corner[0] + 30, _corner[1] + 20))
PHOTO = Image.fromarray(RANDOM.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(tmp_path: Path, content: bytes) -> np.ndarray:
    """The pixels of a file's content, under a name that says nothing."""
    path = tmp_path / "image"
    path.write_bytes(content)
    return read_image(str(path)).numpy()


def quarters(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of the quarters: upper left, upper right, lower left, lower right."""
    return [tuple(pixels[:, row, column].tolist()) for row in (8, 24) for column in (8, 24)]


def assert_quarters(pixels: np.ndarray, tolerance: int = 3) -> None:
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), np.uint8)
    assert abs(np.array(quarters(pixels)) - np.array([RED, GREEN, BLUE, WHITE])).max() <= tolerance


def only_colour(pixels: np.ndarray) -> tuple[int, ...]:
    assert (pixels == pixels[:, :1, :1]).all()
    return tuple(pixels[:, 0, 0].tolist())


# Pixels


@pytest.mark.parametrize("size", [(1, 1), (97, 33), (32, 96)])
def test_the_largest_centred_square_counts_alone(tmp_path: Path, size: tuple[int, int]) -> None:
    image, side = Image.new("RGB", size, RED), min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    image.paste(BLUE, (left, top, left + side, top + side))
    assert only_colour(read(tmp_path, encode(image, "PNG"))) == BLUE


def test_a_large_image_is_averaged_not_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = read(tmp_path, encode(Image.fromarray(stripes), "PNG"))
    assert abs(pixels[:, 4:-4, 4:-4].astype(int) - 127).max() <= 3


@pytest.mark.parametrize(
    ("mode", "format"),
    [("P", "PNG"), ("P", "GIF"), ("CMYK", "TIFF"), ("RGBA", "ICNS"), ("P", "ICO"), ("RGB", "WEBP"), ("RGB", "BMP")],
)
def test_the_colours_of_every_mode_are_kept(tmp_path: Path, mode: str, format: str) -> None:
    image = QUARTERS.resize((64, 64), Image.Resampling.NEAREST).convert(mode)
    assert_quarters(read(tmp_path, encode(image, format)))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpegs_for_screens_and_for_print_are_read(tmp_path: Path, mode: str) -> None:
    assert_quarters(read(tmp_path, encode(QUARTERS.convert(mode), "JPEG", quality=95)), tolerance=12)


@pytest.mark.parametrize(("value", "level"), [(257, 1), (40000, 156), (65535, 255)])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut_off(tmp_path: Path, value: int, level: int, format: str) -> None:
    image = Image.fromarray(np.full((40, 50), value, np.uint16))
    assert only_colour(read(tmp_path, encode(image, format))) == (level,) * 3


def test_transparent_parts_are_white_and_their_hidden_colour_does_not_bleed(tmp_path: Path) -> None:
    image = Image.new("RGBA", (80, 60), (*RED, 0))
    image.paste((*BLUE, 255), (40, 0, 80, 60))
    pixels = read(tmp_path, encode(image, "PNG"))
    assert quarters(pixels) == [WHITE, BLUE, WHITE, BLUE]
    assert (pixels[2] >= 254).all()  # white and blue are both full of blue


@pytest.mark.parametrize(("mode", "transparent", "opaque"), [("RGB", RED, BLUE), ("P", 0, 1)])
def test_the_colour_that_a_png_calls_transparent_is_white(
    tmp_path: Path, mode: str, transparent: Any, opaque: Any
) -> None:
    image = Image.new(mode, (64, 64), transparent)
    if mode == "P":
        image.putpalette([*RED, *BLUE])
    image.paste(opaque, (32, 0, 64, 64))
    assert quarters(read(tmp_path, encode(image, "PNG", transparency=transparent)))[:2] == [WHITE, BLUE]


def test_half_transparent_black_is_grey(tmp_path: Path) -> None:
    assert only_colour(read(tmp_path, encode(Image.new("LA", (40, 40), (0, 128)), "PNG"))) == (127,) * 3


@pytest.mark.parametrize(("orientation", "undo"), [(3, 3), (6, 2), (8, 4), (5, 5)])
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_a_turned_image_is_read_upright(tmp_path: Path, orientation: int, undo: int, format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = QUARTERS.transpose(Image.Transpose(undo))
    assert_quarters(read(tmp_path, encode(turned, format, exif=exif, quality=95)), tolerance=12)


def test_damaged_exif_leaves_the_image_readable(tmp_path: Path) -> None:
    assert_quarters(read(tmp_path, encode(QUARTERS, "PNG", exif=b"Exif\0\0II*\0" + b"\xff" * 60)))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_counts(tmp_path: Path, format: str) -> None:
    first, *others = (Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE, GREEN))
    content = encode(first, format, save_all=True, append_images=others, lossless=True)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    assert only_colour(read(tmp_path, content)) == RED


# Damaged and odd files that viewers show


def insert_chunk(png: bytes, kind: bytes, data: bytes, position: int = 33, wrong_checksum: bool = False) -> bytes:
    """A PNG with one more chunk, by default directly behind the header."""
    checksum = zlib.crc32(kind + data) ^ wrong_checksum
    return png[:position] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum) + png[position:]


@pytest.mark.parametrize("behind_the_pixels", [False, True])
@pytest.mark.parametrize(
    ("kind", "prefix"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_a_png_with_a_huge_comment_or_profile_is_read(
    tmp_path: Path, kind: bytes, prefix: bytes, behind_the_pixels: bool
) -> None:
    plain = encode(QUARTERS, "PNG")
    position = len(plain) - 12 if behind_the_pixels else 33
    content = insert_chunk(plain, kind, prefix + zlib.compress(bytes(3_000_000)), position)
    assert_quarters(read(tmp_path, content))


def test_a_png_with_a_wrong_checksum_in_a_comment_is_read_and_with_one_in_its_header_is_not(tmp_path: Path) -> None:
    plain = encode(QUARTERS, "PNG")
    assert_quarters(read(tmp_path, insert_chunk(plain, b"tEXt", b"Comment\0hello", wrong_checksum=True)))
    with pytest.raises(UserError):
        read(tmp_path, plain[:32] + bytes([plain[32] ^ 1]) + plain[33:])


JPEG_KINDS = [{}, {"progressive": True}, {"restart_marker_blocks": 1}]


@pytest.mark.parametrize("options", JPEG_KINDS)
def test_a_jpeg_without_its_end_marker_is_read_as_the_whole_one(tmp_path: Path, options: dict[str, Any]) -> None:
    content = encode(PHOTO, "JPEG", **options)
    whole = read(tmp_path, content)
    assert np.array_equal(read(tmp_path, content[:-2]), whole)


@pytest.mark.parametrize("options", JPEG_KINDS)
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_jpeg_is_refused(tmp_path: Path, kept: float, options: dict[str, Any]) -> None:
    content = encode(PHOTO, "JPEG", **options)
    with pytest.raises(UserError, match="truncated"):
        read(tmp_path, content[: int(len(content) * kept)])


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "WEBP"])
def test_an_image_cut_in_half_is_refused(tmp_path: Path, format: str) -> None:
    content = encode(PHOTO, format)
    with pytest.raises(UserError, match="is not an image that can be read"):
        read(tmp_path, content[: len(content) // 2])


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    plain = encode(QUARTERS, "PNG")
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    with pytest.raises(UserError, match="exceeds limit"):
        read(tmp_path, insert_chunk(plain[:8] + plain[33:], b"IHDR", header, position=8))


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match="unknown format"):
        read(tmp_path, encode(QUARTERS, "EPS"))
    assert not (tmp_path / "ran").exists()


def test_floats_are_refused_not_cut_off(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="floats"):
        read(tmp_path, encode(Image.fromarray(np.full((40, 40), 0.5, np.float32)), "TIFF"))


# Names and patterns


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files, beside which names are looked up."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "notes.txt", "page.eps", ".hidden.jpg", "sub/e.jpg", ".git/f.jpg", "x.png/y.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path / "photos"


PATTERNS = {
    "photos": ["photos/a.PNG", "photos/b.jpg"],
    "photos/*.jpg": ["photos/b.jpg"],
    "photos/**/*.jpg": ["photos/b.jpg", "photos/sub/e.jpg"],
    "photos/**.jpg": ["photos/b.jpg"],
    "photos/**/*.png": ["photos/x.png/y.png"],
    "photos/.*.jpg": ["photos/.hidden.jpg"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_folder_or_pattern_stands_for_the_visible_files_in_it(folder: Path, pattern: str) -> None:
    assert find_files(pattern) == PATTERNS[pattern]
    assert find_files(f"{folder.parent}/{pattern}") == [f"{folder.parent}/{name}" for name in PATTERNS[pattern]]


def test_a_file_whose_name_looks_like_a_pattern_stands_for_itself(folder: Path) -> None:
    (folder / "b[1]*.jpg").touch()
    assert find_files("photos/b[1]*.jpg") == ["photos/b[1]*.jpg"]


@pytest.mark.parametrize("name", ["nothing.jpg", "photos/no*.png", "empty", ""])
def test_a_name_that_stands_for_no_image_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="no image found"):
        find_files(name)


def test_names_are_printed_without_control_characters() -> None:
    name = os.fsdecode(b"a\nb\x1b[31m\xff\xe2\x80\xaeg.png")
    assert printable(name) == "a\\nb\\x1b[31m\\udcff\\u202eg.png"
    assert printable("Größe 猫 😀.png") == "Größe 猫 😀.png"


# The command


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", LeNet(ModelSection(dropout=0.5), len(NAMES)), NAMES)
    return tmp_path / "w.safetensors"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate((RED, GREEN, BLUE)):
        Image.new("RGB", (40 + number, 50), colour).save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this process, without the settings that would hold for all of it."""
    monkeypatch.setattr(device, "set_deterministic", lambda threads: None)
    app = typer.Typer(add_completion=False)
    app.command()(predict)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_what_cannot_be_read_is_reported_at_the_end_and_the_rest_is_classified(
    call: Callable[..., Result], photos: Path, weights: Path
) -> None:
    (photos / "1a\x1b[31m.png").write_bytes(b"noise")
    (photos / "2a.png").write_bytes(b"")
    result = call("photos/2.png", "none*", "photos", "--weights", weights, "--json")
    assert isinstance(result.exception, UserError)
    rows = json.loads(result.stdout)
    assert [row["file"] for row in rows] == [f"photos/{number}.png" for number in (2, 0, 1, 2)]
    for row in rows:
        fractions = [guess["probability"] for guess in row["predictions"]]
        assert fractions == sorted(fractions, reverse=True)
        assert len({guess["class"] for guess in row["predictions"]} & set(NAMES)) == 3
    first, second, third = str(result.exception).splitlines()
    assert first.startswith("none*: no image found;")
    assert second.startswith("photos/1a\\x1b[31m.png: is not an image that can be read (unknown format);")
    assert third.startswith("photos/2a.png: is not an image")


def test_the_table_names_weights_files_and_classes(call: Callable[..., Result], photos: Path, weights: Path) -> None:
    shutil.copy(photos / "0.png", photos / ("long" * 20 + "\x1b[31m[red]:cat:.png"))
    result = call("photos/long*", "--weights", weights.name, "--top", "9")
    assert "\x1b" not in result.stdout
    title, *lines = result.stdout.splitlines()
    assert title.strip() == "Predictions of w.safetensors"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert "".join(row[0] for row in rows) == f"photos/{'long' * 20}\\x1b[31m[red]:cat:.png"  # folded, not cut off
    assert sorted(cell.split()[0] for cell in rows[0][1:]) == sorted(NAMES)  # there are no more than four
    assert sum(float(cell.split()[1]) for cell in rows[0][1:]) == pytest.approx(1, abs=0.001)


def test_the_predictions_are_those_of_the_network_on_the_same_pixels(
    call: Callable[..., Result], tmp_path: Path, weights: Path
) -> None:
    images = RANDOM.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{number:02}.png")
    network, names = load_weights(weights)
    expected = rank(scoring.predict(network, torch.from_numpy(images)), names, 1)
    rows = json.loads(call(tmp_path, "--weights", weights, "--top", "1", "--json").stdout)
    assert [row["predictions"][0]["class"] for row in rows] == [best[0]["class"] for best in expected]
    found, wanted = (
        [guess[0]["probability"] for guess in guesses] for guesses in ([r["predictions"] for r in rows], expected)
    )
    assert found == pytest.approx(wanted, abs=2e-6)


def test_the_weights_are_those_of_the_workspace_or_of_a_revision(
    call: Callable[..., Result], photos: Path, weights: Path
) -> None:
    expected = call("photos", "--weights", weights, "--json").stdout
    path = Path("data/model/lenet.safetensors")
    path.parent.mkdir(parents=True)
    weights.rename(path)
    run(Path(), "git", "init", "--quiet")
    run(Path(), "dvc", "init", "--quiet")
    commit(Path(), "weights")
    assert call("photos", "--json").stdout == expected
    save_weights(path, LeNet(ModelSection(dropout=0.5), 2), ("left", "right"))
    assert "left" in call("photos").stdout
    path.unlink()
    assert call("photos", "--rev", "HEAD", "--json").stdout == expected
    assert f"Predictions of {path} in HEAD" in call("photos", "--rev", "HEAD").stdout
    assert f"{path}: not found; run dvc pull" in str(call("photos").exception)
    assert "nowhere: is no commit" in str(call("photos", "--rev", "nowhere").exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rev", "HEAD", "--weights", "w.safetensors"), "both choose the weights"),
        (("--top", "0"), "greater than or equal to 1"),
        (("--device", "gpu"), "expected auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_wrong_options_end_with_status_2(
    call: Callable[..., Result], photos: Path, words: tuple[str, ...], message: str
) -> None:
    result = call("photos", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(line.strip("│ ") for line in result.stderr.splitlines())


def test_a_missing_device_and_foreign_weights_are_refused(
    call: Callable[..., Result], photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device: found cuda" in str(call("photos", "--weights", weights, "--device", "cuda").exception)
    weights.write_bytes(b"noise" * 100)
    assert "is not a model of this project" in str(call("photos", "--weights", weights).exception)


def test_classes_are_ranked_by_logits_and_ties_by_their_order() -> None:
    first, tied = rank(torch.tensor([[0.0, 40.0, 41.0], [1.0, 1.0, 1.0]]), ("cat", "dog", "frog"), 5)
    assert [guess["class"] for guess in first] == ["frog", "dog", "cat"]
    assert [guess["probability"] for guess in first] == [0.731059, 0.268941, 0.0]
    assert [guess["class"] for guess in tied] == ["cat", "dog", "frog"]
