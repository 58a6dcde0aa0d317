"""What picture.py promises: any file is read as it is meant, and written with nothing changed but the holes."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from conftest import script
from PIL import Image

from faceeraser.face import picture

wild = script("benchmarks/wild.py")  # it makes the profiles

HOLE = (slice(10, 30), slice(15, 45))
NOTCH = (slice(10, 15), slice(15, 25))  # not in it, though in the box around it
SKIN = (200, 120, 60)  # what is painted into the hole


def smooth_picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [120 + 60 * np.sin(x / 29 + k) + 50 * np.cos(y / 37 - k) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def erase(source: Path, target: Path, **options: object) -> list[str]:
    """Paint SKIN into the HOLE of every image of a file; what was said about it."""
    opened = picture.opened(source)
    try:
        with picture.writing(target, opened, **options) as put:  # type: ignore[arg-type]
            for page in opened.pages():
                painted, mask = page.image.copy(), np.zeros(page.image.shape[:2], bool)
                mask[HOLE], mask[NOTCH] = True, False
                painted[mask] = SKIN
                put(page.erased(painted, mask))
    finally:
        opened.close()
    return opened.notes


def outside(samples: np.ndarray) -> np.ndarray:
    """The samples without those of the hole."""
    kept = np.ones(samples.shape[:2], bool)
    kept[HOLE], kept[NOTCH] = False, True
    return samples[kept]


# ------------------------------------------------------------------------------------------------------------ reading


def test_rgb_pictures_are_read_exactly(tmp_path: Path) -> None:
    pixels = smooth_picture(40, 60)
    for suffix in ("png", "bmp", "tif"):
        assert np.array_equal(picture.read(save(tmp_path / f"a.{suffix}", pixels)).image, pixels)


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    pixels = smooth_picture(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    save(tmp_path / "a.png", pixels, exif=exif)
    assert np.array_equal(picture.read(tmp_path / "a.png").image, np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "LAB"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    plain = Image.fromarray(grey)
    if mode == "LAB":
        image = Image.fromarray(cv2.cvtColor(grey, cv2.COLOR_RGB2LAB), mode="LAB")
    else:
        image = plain.convert(mode)
    image.save(tmp_path / "a.tif")
    read = picture.read(tmp_path / "a.tif").image
    assert read.shape == grey.shape and read.dtype == np.uint8
    if mode != "LAB":  # Pillow maps LAB by a profile of its own; only shape and type are promised
        tolerance = 130 if mode == "1" else 6
        assert np.abs(cv2.blur(read, (9, 9)).astype(int) - cv2.blur(grey, (9, 9))).max() <= tolerance


def test_sixteen_bit_pictures_keep_their_range(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 256).astype(np.uint16)[None], 20, axis=0)
    cv2.imwrite(str(tmp_path / "a.png"), ramp)
    read = picture.read(tmp_path / "a.png").image
    assert np.abs(read[..., 1].astype(int) - np.round(ramp / 257)).max() <= 1
    cv2.imwrite(str(tmp_path / "b.png"), np.repeat(ramp[..., None], 3, axis=2))
    assert np.abs(picture.read(tmp_path / "b.png").image.astype(int) - np.round(ramp / 257)[..., None]).max() <= 1


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:, 10:] = [200, 10, 30, 255]
    read = picture.read(save(tmp_path / "a.png", rgba)).image
    assert (read[:, :10] == 255).all() and (read[:, 10:] == [200, 10, 30]).all()
    palette = Image.fromarray(rgba[..., 0]).convert("P")
    palette.save(tmp_path / "b.png", transparency=int(np.asarray(palette)[0, 0]))
    assert (picture.read(tmp_path / "b.png").image[:, :10] == 255).all()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces any size and holds nothing: what a decompression bomb looks like from outside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that are no usable photographs, by what is wrong with them."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    jpeg = save(folder / "whole.jpg", noise).read_bytes()
    png = save(folder / "whole.png", noise).read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"this is no picture\n" * 20,
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "garbled.png": png[:60] + bytes(reversed(png[60:])),
        "bomb.png": png_header(60000, 60000),
        "large.png": png_header(12000, 11000),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    save(folder / "pixel.png", noise[:1, :1])
    for name in ("whole.jpg", "whole.png"):
        (folder / name).unlink()
    return {name: folder / name for name in [*contents, "pixel.png"]}


def test_every_broken_file_gives_one_error_that_names_it(tmp_path: Path) -> None:
    files = broken_files(tmp_path)
    files |= {"missing": tmp_path / "missing.jpg", "folder": tmp_path}
    for name, path in files.items():
        with pytest.raises(ValueError) as caught:
            picture.read(path)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message, name
        assert "expected" in message or "cannot be opened" in message, name


def test_what_may_not_be_read_is_not_called_damaged() -> None:
    """As another user where this one may read anything."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = save(Path(folder) / "a.png", smooth_picture(40, 60))
        path.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(ValueError, match=r"a\.png: may not be read \(Permission denied\)"):
                picture.opened(path)
        finally:
            if root:
                os.seteuid(0)


def test_a_profile_is_followed(tmp_path: Path) -> None:
    """Numbers that a profile gives another meaning come back as the colours they stand for."""
    for name, profile, mode, suffix, apart in (
        ("inks", wild.ink_profile(), "CMYK", "jpg", 15),
        ("wide", wild.wide_profile(), "RGB", "png", 3),
        ("grey", wild.grey_profile(), "L", "png", 4),
    ):
        path = tmp_path / f"{name}.{suffix}"
        wild.converted(profile, mode).save(path, icc_profile=profile, quality=95)
        truth = wild.pixels() if mode != "L" else np.asarray(wild.portrait().convert("L").convert("RGB"))
        with Image.open(path) as image:
            naive = np.asarray(image.convert("RGB"))
        off, otherwise = (np.abs(read.astype(int) - truth).mean() for read in (picture.read(path).image, naive))
        assert off < 2.5 and otherwise > apart, (name, off, otherwise)


def test_a_damaged_profile_costs_the_profile_and_not_the_picture(tmp_path: Path) -> None:
    pixels = smooth_picture(40, 60)
    save(tmp_path / "a.png", pixels, icc_profile=wild.wide_profile()[:200] + bytes(200))
    assert np.array_equal(picture.read(tmp_path / "a.png").image, pixels)


def test_sixteen_bits_are_read_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        deep = rng.integers(0, 65536, (40, 60, channels), dtype=np.uint16)
        for suffix in ("png", "tif"):
            cv2.imwrite(str(tmp_path / f"a.{suffix}"), deep[..., [2, 1, 0, 3][:channels]] if channels > 1 else deep)
            page = picture.read(tmp_path / f"a.{suffix}")
            assert page.mode == mode and np.array_equal(page.samples.reshape(deep.shape), deep), (mode, suffix)


def test_the_picture_of_a_tiff_is_not_its_thumbnail(tmp_path: Path) -> None:
    wild._thumbnail_first(tmp_path / "a.tif")
    assert picture.read(tmp_path / "a.tif").image.shape == (wild.SIDE, wild.SIDE, 3)
    wild._thumbnail_first(tmp_path / "b.tif", raw=True)
    with pytest.raises(ValueError, match="camera's raw file"):
        picture.opened(tmp_path / "b.tif")


# ------------------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "16L", "16RGB", "16RGBA"])
def test_nothing_but_the_hole_changes(tmp_path: Path, mode: str, ending: str) -> None:
    """Mode, transparency, depth and every sample outside: read by tifffile, OpenCV or Pillow."""
    rng = np.random.default_rng(0)
    channels = len(mode.removeprefix("16"))
    dtype, full = (np.uint16, 65535) if mode.startswith("16") else (np.uint8, 255)
    samples = rng.integers(1, full, (40, 60, channels), dtype=dtype)
    samples = samples[..., 0] if channels == 1 else samples
    tifffile.imwrite(
        tmp_path / "a.tif",
        samples,
        photometric="minisblack" if channels < 3 else "rgb",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        planarconfig="contig" if channels > 1 else None,
    )
    assert erase(tmp_path / "a.tif", tmp_path / f"out{ending}") == []
    after = wild.read_samples(tmp_path / f"out{ending}")
    assert after.dtype == samples.dtype and after.shape == samples.shape
    assert np.array_equal(outside(after), outside(samples))
    hole = after[15:30, 15:45] if channels > 1 else after[15:30, 15:45, None]
    grey = round(0.299 * SKIN[0] + 0.587 * SKIN[1] + 0.114 * SKIN[2])
    painted = np.array([grey] if channels < 3 else SKIN) * (full // 255)
    assert np.abs(hole[..., : len(painted)].astype(int) - painted).max() <= full // 255
    if channels in (2, 4):
        assert np.array_equal(hole[..., -1], samples[15:30, 15:45, -1]), "as transparent as it was"


def test_what_does_not_show_stays_as_it_is(tmp_path: Path) -> None:
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[..., 0] = 77
    save(tmp_path / "a.png", rgba)
    erase(tmp_path / "a.png", tmp_path / "out.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "out.png")), rgba)


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".webp", ".avif"])
def test_a_profile_is_kept_where_it_can_be(tmp_path: Path, ending: str) -> None:
    """And what is painted is put into it: the hole is SKIN for whoever follows the profile."""
    profile = wild.wide_profile()
    wild.converted(profile, "RGB").resize((60, 40)).save(tmp_path / "a.png", icc_profile=profile)
    assert erase(tmp_path / "a.png", tmp_path / f"out{ending}") == []
    with Image.open(tmp_path / f"out{ending}") as image:
        assert image.info["icc_profile"] == profile
    middle = picture.read(tmp_path / f"out{ending}").image[18:22, 25:35].reshape(-1, 3).mean(0)
    assert np.abs(middle - SKIN).max() < 4


def test_a_profile_that_cannot_be_kept_is_followed_and_said(tmp_path: Path) -> None:
    profile = wild.wide_profile()
    wild.converted(profile, "RGB").resize((60, 40)).save(tmp_path / "a.png", icc_profile=profile)
    meant = picture.read(tmp_path / "a.png").image
    assert erase(tmp_path / "a.png", tmp_path / "out.bmp") == ["its colour profile was followed to sRGB: .bmp carries none"]
    with Image.open(tmp_path / "out.bmp") as image:
        assert np.array_equal(outside(np.array(image)), outside(meant))


def test_every_loss_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (40, 60, 4), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    save(tmp_path / "inks.jpg", smooth_picture(40, 60), "CMYK")
    save(tmp_path / "palette.png", smooth_picture(40, 60), "P")
    for source, target, expected in (
        ("deep.png", "a.jpg", ["16 bits a channel became 8", "transparent became white"]),
        ("deep.png", "b.webp", ["16 bits a channel became 8"]),
        ("inks.jpg", "c.png", ["CMYK became RGB"]),
        ("palette.png", "d.png", ["palette"]),
        ("inks.jpg", "e.jpg", []),
    ):
        said = erase(tmp_path / source, tmp_path / target)
        assert len(said) == len(expected) and all(text in line for text, line in zip(expected, said, strict=True)), said


def test_several_images_are_all_written_or_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(smooth_picture(40, 60), 5 * k, axis=1)) for k in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=[100, 200, 300], loop=2)
    erase(tmp_path / "a.png", tmp_path / "out.webp")
    with Image.open(tmp_path / "out.webp") as image:
        assert image.n_frames == 3 and image.info["loop"] == 2
        for number, frame in enumerate(frames):
            image.seek(number)
            image.load()
            assert image.info["duration"] == 100 * (number + 1)
            assert np.array_equal(outside(np.array(image.convert("RGB"))), outside(np.array(frame)))
    with pytest.raises(ValueError, match=r"has 3 frames, and \.jpg holds one; expected an OUT that ends in \.png"):
        erase(tmp_path / "a.png", tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()


def test_facts_are_kept_when_they_are_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0132], exif[0x0112] = "2020:02:03 04:05:06", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    exif.get_ifd(0x8769)[0x927C] = b"the maker's own, with a preview"
    save(tmp_path / "a.jpg", smooth_picture(40, 60), exif=exif, dpi=(300, 300))
    for options in ({}, {"metadata": True}, {"gps": True}):
        erase(tmp_path / "a.jpg", tmp_path / "out.jpg", **options)
        with Image.open(tmp_path / "out.jpg") as image:
            kept = image.getexif()
            assert image.size == (40, 60) and 0x0112 not in kept, "it stands upright, and is not turned once more"
            assert (0x0132 in kept) == ("metadata" in options) == (image.info.get("dpi") == (300, 300))
            assert bool(kept.get_ifd(0x8825)) == ("gps" in options)
            assert 0x927C not in kept.get_ifd(0x8769)


@pytest.mark.parametrize(("dtype", "said"), [(np.uint8, []), (np.uint16, ["16 bits a channel were read as 8"])])
def test_a_jpeg_2000_of_more_than_8_bits_is_reduced_with_a_word(tmp_path, dtype, said):
    import cv2

    shades = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (64, 80, 3), dtype)
    cv2.imwrite(str(tmp_path / "a.jp2"), shades)
    source = picture.opened(tmp_path / "a.jp2")
    assert next(source.pages()).samples.shape == shades.shape and source.notes == said
