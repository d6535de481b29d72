"""Any image file becomes the 32x32 colours that it shows, or a line that says why not."""

import io
import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image
from test_fuzz import FUZZ, mutations, read_or_refuse

from lenet_cifar10 import pictures
from lenet_cifar10.errors import UserError

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
QUARTERS = Image.new("RGB", (60, 40))  # red, green / blue, white
for _place, _colour in (((0, 0), RED), ((30, 0), GREEN), ((0, 20), BLUE), ((30, 20), WHITE)):
    QUARTERS.paste(_colour, (*_place, _place[0] + 30, _place[1] + 20))


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def colours(image: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """What is in the middle of the four quarters: upper left, upper right, lower left, lower right."""
    return [tuple(int(value) for value in image[:, row, column]) for row in (8, 24) for column in (8, 24)]


def constant(image: NDArray[np.uint8]) -> tuple[int, ...]:
    """The colour of an image that has only one."""
    assert (image == image[:, :1, :1]).all()
    return tuple(int(value) for value in image[:, 0, 0])


# Size


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm", "tga", "webp", "qoi", "sgi"])
def test_32_by_32_rgb_is_taken_to_the_bit(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", Image.fromarray(NOISE), **options)
    assert np.array_equal(pictures.read(path), NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (31, 33), (10_000, 1), (1, 10_000), (320, 240), (33, 32)])
def test_any_size_and_shape_becomes_32_by_32(tmp_path: Path, size: tuple[int, int]) -> None:
    image = pictures.read(save(tmp_path / "a.png", Image.new("RGB", size, (10, 20, 30))))
    assert (image.shape, image.dtype) == ((3, 32, 32), np.uint8)
    assert constant(image) == (10, 20, 30)
    assert image.flags.c_contiguous


@pytest.mark.parametrize("size", [(96, 32), (32, 96), (97, 33)])
def test_the_centre_square_is_what_counts(tmp_path: Path, size: tuple[int, int]) -> None:
    wide = Image.new("RGB", size, "red")
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    wide.paste("blue", (left, top, left + side, top + side))
    assert constant(pictures.read(save(tmp_path / "a.png", wide))) == BLUE


def test_a_large_picture_is_averaged_not_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    image = pictures.read(save(tmp_path / "a.png", Image.fromarray(stripes)))
    assert abs(image[:, 4:-4, 4:-4].astype(int) - 127).max() <= 3


# Modes

COARSE = {"LAB": 25}  # levels: 8 bits of L*, a* and b* are far apart in pure colours


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.tif"),
        ("YCbCr", "a.tif"),
        ("LAB", "a.tif"),
    ],
)
def test_colours_survive_every_mode(tmp_path: Path, mode: str, name: str) -> None:
    path = save(tmp_path / name, QUARTERS.convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode
    found = np.array(colours(pictures.read(path))).astype(int)
    assert abs(found - np.array([RED, GREEN, BLUE, WHITE])).max() <= COARSE.get(mode, 3)


@pytest.mark.parametrize("mode", ["HSV", "RGBa", "RGBX", "PA", "YCbCr", "LAB", "CMYK"])
def test_modes_that_few_files_have_are_read_too(mode: str) -> None:
    start = QUARTERS.convert("RGBA") if mode == "RGBa" else QUARTERS
    found = np.array(colours(pictures.to_pixels(start.convert(mode)))).astype(int)
    assert abs(found - np.array([RED, GREEN, BLUE, WHITE])).max() <= COARSE.get(mode, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
@pytest.mark.parametrize("level", [0, 255])
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str, level: int) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (50, 40), level).convert(mode))
    assert constant(pictures.read(path)) == (level,) * 3


@pytest.mark.parametrize(("value", "level"), [(0, 0), (257, 1), (32768, 128), (40000, 156), (65535, 255)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_cut_off(tmp_path: Path, value: int, level: int, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", Image.fromarray(np.full((40, 50), value, np.uint16)))
    assert constant(pictures.read(path)) == (level,) * 3


def test_16_bit_grey_of_the_other_byte_order_is_the_same(tmp_path: Path) -> None:
    levels = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    little, big = (
        pictures.read(save(tmp_path / f"{kind[0]}.tif", Image.fromarray(levels.astype(kind))))
        for kind in ("<u2", ">u2")
    )
    assert np.array_equal(little, big)
    assert len(np.unique(little)) > 200


@pytest.mark.parametrize(
    ("values", "kind", "levels"),
    [
        ([0, 1], np.float32, [0, 255]),
        ([0.25, 0.5], np.float32, [64, 128]),
        ([-5, 51], np.float32, [0, 51]),
        ([0, 65535], np.float32, [0, 255]),
        ([500, 1000], np.float32, [2, 4]),
        ([100_000, 200_000], np.float32, [128, 255]),
        ([0, 0], np.float32, [0, 0]),
        ([0, 200], np.int32, [0, 200]),
        ([-7, 65535], np.int32, [0, 255]),
        ([2**30, 2**31 - 1], np.int32, [128, 255]),
    ],
)
def test_deep_grey_has_the_first_white_that_fits(
    tmp_path: Path, values: list[float], kind: type[np.generic], levels: list[int]
) -> None:
    halves = np.empty((32, 64), kind)
    halves[:, :32], halves[:, 32:] = values
    tall = np.repeat(halves, 2, axis=0)
    image = pictures.read(save(tmp_path / "a.tif", Image.fromarray(tall)))
    assert [int(image[0, 16, column]) for column in (8, 24)] == levels


def test_what_is_outside_the_square_has_no_part_in_the_white(tmp_path: Path) -> None:
    wide = np.full((40, 120), 200_000, np.float32)
    wide[:, 40:80] = 0.5
    assert constant(pictures.read(save(tmp_path / "a.tif", Image.fromarray(wide)))) == (128, 128, 128)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_grey_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    grey = np.zeros((40, 40), np.float32)
    grey[20, 20] = value
    path = save(tmp_path / "a.tif", Image.fromarray(grey))
    with pytest.raises(UserError, match=r"a\.tif: is a damaged image \(some of its values are no numbers\)"):
        pictures.read(path)


# Transparency


@pytest.mark.parametrize("size", [(32, 32), (80, 60)])
def test_what_is_transparent_is_white_whatever_its_hidden_colour(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "a.png", Image.new("RGBA", size, (255, 0, 0, 0)))
    assert constant(pictures.read(path)) == WHITE


def test_half_transparent_black_is_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("LA", (40, 40), (0, 128)))
    assert constant(pictures.read(path)) == (127,) * 3


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp"])
def test_a_hidden_colour_does_not_bleed_over_the_edge(tmp_path: Path, name: str) -> None:
    image = Image.new("RGBA", (128, 128), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (64, 0, 128, 128))
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    found = pictures.read(save(tmp_path / name, image, **options))
    assert colours(found) == [WHITE, BLUE, WHITE, BLUE]
    assert (found[2] >= 254).all()  # white and blue, and nothing between, are full of blue


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    noise = Image.fromarray(RANDOM.integers(0, 256, (301, 457, 3), dtype=np.uint8))
    plain, opaque = (pictures.read(save(tmp_path / f"{mode}.png", noise.convert(mode))) for mode in ("RGB", "RGBA"))
    assert np.array_equal(plain, opaque)


@pytest.mark.parametrize(
    ("mode", "transparent", "kept"),
    [("RGB", (1, 2, 3), (9, 9, 9)), ("L", 7, 90), ("1", 0, 1), ("I;16", 1000, 40000)],
)
def test_a_colour_that_a_png_calls_transparent_is_white(tmp_path: Path, mode: str, transparent: Any, kept: Any) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.repeat(np.array([[transparent, kept]], np.uint16), 32, axis=1).repeat(64, axis=0))
    else:
        image = Image.new(mode, (64, 64), transparent)
        image.paste(kept, (32, 0, 64, 64))
    found = pictures.read(save(tmp_path / "a.png", image, transparency=transparent))
    left, right = colours(found)[:2]
    expected = {"RGB": (9, 9, 9), "L": (90,) * 3, "1": WHITE, "I;16": (156,) * 3}[mode]
    assert (left, right) == (WHITE, expected)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_palette_with_transparency_is_over_white(tmp_path: Path, transparency: Any) -> None:
    image = Image.new("P", (64, 64), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (32, 0, 64, 64))
    path = save(tmp_path / "a.png", image, transparency=transparency)
    assert colours(pictures.read(path))[:2] == [WHITE, BLUE]


# Orientation, frames, coding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_turned_picture_is_read_upright(tmp_path: Path, orientation: int, name: str) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the method that undoes what each orientation means
    stored = QUARTERS if orientation == 1 else QUARTERS.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = np.array(colours(pictures.read(save(tmp_path / name, stored, exif=exif, quality=95)))).astype(int)
    assert abs(found - np.array([RED, GREEN, BLUE, WHITE])).max() <= 12


def test_a_turned_picture_has_the_pixels_of_the_upright_one(tmp_path: Path) -> None:
    noise = Image.fromarray(RANDOM.integers(0, 256, (57, 84, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = save(tmp_path / "turned.png", noise.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert np.array_equal(pictures.read(turned), pictures.read(save(tmp_path / "upright.png", noise)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_passed_over(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert colours(pictures.read(save(tmp_path / "a.png", QUARTERS, exif=exif))) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0" + b"\xff" * 60, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 65000]
)
def test_damaged_or_huge_exif_in_a_whole_picture_is_passed_over(tmp_path: Path, exif: bytes) -> None:
    found = np.array(colours(pictures.read(save(tmp_path / "a.jpg", QUARTERS, exif=exif, quality=95)))).astype(int)
    assert abs(found - np.array([RED, GREEN, BLUE, WHITE])).max() <= 12


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first_counts(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, *[BLUE] * 200)]
    for number, frame in enumerate(frames):
        frame.putpixel((number % 40, number // 40), GREEN)  # or equal frames would be saved as one
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 201
    assert colours(pictures.read(path)) == [RED] * 4


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"keep_rgb": True}])
def test_kinds_of_jpeg_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    found = np.array(colours(pictures.read(save(tmp_path / "a.jpg", QUARTERS, quality=95, **options)))).astype(int)
    assert abs(found - np.array([RED, GREEN, BLUE, WHITE])).max() <= 12


def test_the_ending_of_a_name_says_nothing(tmp_path: Path) -> None:
    assert colours(pictures.read(save(tmp_path / "a.txt", QUARTERS, format="PNG"))) == [RED, GREEN, BLUE, WHITE]


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        pictures.read(path)
    message = str(caught.value)
    assert message.isprintable()
    return message.removeprefix(str(path))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("hello")
    assert refusal(path) == ": is no image that can be read here; save it as PNG or JPEG"
    path.write_bytes(b"")
    assert refusal(path) == ": is an empty file, expected an image; get it anew"
    assert refusal(tmp_path / "none.jpg") == ": No such file or directory; name a file that can be read"
    assert refusal(tmp_path) == ": is a folder, expected an image"
    assert refusal(path / "below") == ": Not a directory; name a file that can be read"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", QUARTERS)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: have the system refuse

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == ": Permission denied; name a file that can be read"


def test_pipes_and_devices_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(tmp_path / "pipe.png").startswith(": is a pipe or a device")
    assert refusal(Path("/dev/zero")).startswith(": is a pipe or a device")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.bmp", "a.webp"])
def test_a_truncated_image_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:-1500])
    assert refusal(path).startswith((": is a damaged image (", ": is no image that can be read"))


def png_of_size(width: int, height: int) -> bytes:
    """The start of a PNG that says it has that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9460, 9459), (13378, 13377), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_with_the_limit(tmp_path: Path, size: tuple[int, int]) -> None:
    """The first two are just above what Pillow warns of, and just above what it refuses."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(*size))
    pixels = size[0] * size[1]
    assert refusal(path) == f": has {pixels:,} pixels, expected at most 89,478,485; make it smaller"


def test_a_picture_below_the_limit_that_ends_early_is_damaged_not_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of_size(2000, 2000))
    assert refusal(path).startswith(": is a damaged image (image file is truncated")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = save(tmp_path / "a.eps", QUARTERS)
    assert refusal(path).startswith(": is no image that can be read here")  # Pillow would look for Ghostscript


def test_only_the_caller_speaks_of_a_damaged_tiff(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.tif", QUARTERS, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)
    refusal(path)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_name_with_line_breaks_control_signs_and_broken_letters_is_one_harmless_line(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\nb\x1b[31m\xff\xe2\x80\xaeg.png")
    path.write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        pictures.read(path)
    assert "/a\\nb\\x1b[31m\\udcff\\u202eg.png: is no image" in str(caught.value)
    assert str(caught.value).isprintable()


def test_letters_of_all_languages_are_kept() -> None:
    assert pictures.printable("Größe 猫 😀.png") == "Größe 猫 😀.png"


# Finding


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def found(name: str | Path) -> list[str]:
    return [str(path) for path in pictures.find(str(name))]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = [
        "b.jpg",
        "a.PNG",
        "c d.webp",
        "notes.txt",
        "data.h5",
        "page.eps",
        ".hidden.jpg",
        "sub/e.jpg",
        "x.png/y.png",
    ]
    make_files(tmp_path / "photos", *names)
    return tmp_path / "photos"


def test_a_folder_stands_for_the_images_right_in_it(photos: Path) -> None:
    assert found("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/c d.webp"]
    assert found(photos) == [f"{photos}/{name}" for name in ("a.PNG", "b.jpg", "c d.webp")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.jpg", ["photos/b.jpg"]),
        ("photos/**/*.jpg", ["photos/b.jpg", "photos/sub/e.jpg"]),
        ("photos/[ab].*", ["photos/a.PNG", "photos/b.jpg"]),
        ("photos/?.jpg", ["photos/b.jpg"]),
        ("photos/.*.jpg", ["photos/.hidden.jpg"]),
        ("photos/no*", ["photos/notes.txt"]),
        ("photos/sub/../b*", ["photos/sub/../b.jpg"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_it_matches(photos: Path, pattern: str, names: list[str]) -> None:
    assert found(pattern) == names
    assert found(photos.parent / pattern) == [f"{photos.parent}/{name}" for name in names]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(photos: Path) -> None:
    make_files(photos, "b[1]*.jpg")
    assert found("photos/b[1]*.jpg") == ["photos/b[1]*.jpg"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.jpg", "nothing.jpg: no such file; name an image,"),
        ("", "'': no such file; name an image,"),
        ("nothing/*.jpg", "nothing/*.jpg: matches no file; mend the pattern"),
        ("photos/**.jpg", "photos/**.jpg: is no pattern ("),
        ("empty", "empty: is an empty folder;"),
        ("photos/sub2", "photos/sub2: has no file whose name ends as an image's does;"),
        ("x" * 300, "x" * 300 + ": File name too long"),
        ("a\nb", "a\\nb: no such file"),
    ],
)
def test_what_stands_for_no_file_is_told(photos: Path, name: str, words: str) -> None:
    Path("empty").mkdir()
    make_files(photos, "sub2/notes.txt", "sub2/below/a.jpg")
    with pytest.raises(UserError) as caught:
        pictures.find(name)
    assert str(caught.value).startswith(words)


# Damage


def samples() -> dict[str, bytes]:
    """Small images of every format that Pillow writes and we read, in each mode that it takes."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 25, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[36864] = b"0230"
    Image.init()
    made = {}
    for format in sorted(set(Image.SAVE) & set(pictures.formats())):
        for mode in ("RGB", "RGBA", "P", "LA", "L", "1", "CMYK", "I;16", "F"):
            written = io.BytesIO()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # Pillow will drop a format or two
                    noise.convert("L").convert(mode).save(written, format, exif=exif)
            except (OSError, ValueError, KeyError):  # this format has not this mode
                continue
            made[f"{format} {mode}"] = written.getvalue()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        written = io.BytesIO()
        noise.save(written, "TIFF", compression=compression, exif=exif)
        made[f"TIFF {compression}"] = written.getvalue()
    return made


SAMPLES = samples()


def test_the_samples_are_of_many_formats_and_all_are_read(tmp_path: Path) -> None:
    assert len({name.split()[0] for name in SAMPLES}) >= 15
    for name, content in SAMPLES.items():
        path = tmp_path / "sample"
        path.write_bytes(content)
        assert pictures.read(path).shape == (3, 32, 32), name


@FUZZ
@given(st.sampled_from(sorted(SAMPLES)).flatmap(lambda name: mutations(SAMPLES[name])))
def test_a_damaged_image(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.image"
    path.write_bytes(SAMPLES["PNG RGB"])
    pictures.read(path)  # opens /dev/null for writing, once in a process
    path.write_bytes(content)

    def read() -> None:
        with suppress(UserError):
            assert pictures.read(path).shape == (3, 32, 32)

    read_or_refuse(read)
