"""What `faceeraser erase` and `faceeraser inspect` promise, and the package's own three names."""

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

import faceeraser
from faceeraser import cli, jobs
from faceeraser.artifacts import contents
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import read_card, write_card
from faceeraser.artifacts.runtimes import TFLITE_RUNTIMES
from faceeraser.face import effects, mesh, picture
from faceeraser.face.crops import align_matrix, cut
from faceeraser.face.finder import find_faces
from faceeraser.face.glasses import draw_glasses
from faceeraser.face.masks import face_mask
from faceeraser.face.mesh import Face, transform
from faceeraser.face.parts import DILATION, DILATION_ERASED, DILATION_EYE_DISTANCE, parts_map
from faceeraser.face.profiles import FEATURES, PROFILES
from faceeraser.system import writing

ROOT = Path(__file__).resolve().parent.parent
SIZE = 64
COLOUR = (0, 255, 102)  # no skin has it, so a pixel that has it was painted by the model below
PUPILS, LIPS = [(203, 101), (247, 104)], (223, 146)  # the astronaut's, x and y, read off by eye


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tflite file that paints the hole in COLOUR, with its card."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3]), tf.TensorSpec([1, SIZE, SIZE, 1])])
    def eraser(image, mask):
        return {"erased": image * (1 - mask) + mask * tf.constant(COLOUR, tf.float32) / 255}

    path = tmp_path_factory.mktemp("model") / "tiny.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([eraser.get_concrete_function()]).convert())
    facts = {
        "precision": "fp32",
        "resolution": SIZE,
        "edges": "inside",
        "warp": "none",
        "notes": [],
        "parity": {"n": 16, "psnr_hole_min": 90.0, "max_abs_hole": 1e-5, "gate": 1e-4, "passed": True},
        "history": [{"stage": "train-inpaint", "metrics": {"gmacs": 1.5, "params": 7, "psnr_hole_mirrored": 31.25}}],
    }
    write_card(path, facts)
    return path


@pytest.fixture(scope="module")
def astronaut(landmarks: None) -> np.ndarray:
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


@pytest.fixture
def photo(astronaut: np.ndarray, tmp_path: Path) -> Path:
    """The astronaut in a folder of her own, with nothing beside her."""
    path = tmp_path / "photos" / "astronaut.png"
    path.parent.mkdir()
    Image.fromarray(astronaut).save(path)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(word) for word in arguments])


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def is_painted(picture: np.ndarray, x: int, y: int) -> bool:
    return bool(np.abs(picture[y, x].astype(int) - COLOUR).max() <= 1)


def errors(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("faceeraser: ")
    return line


# --- erase: the picture ----------------------------------------------------------------------------------------------


def test_a_reader_who_leaves_early_is_no_error() -> None:
    """As `head` does. What is not written yet fails when it is written, what is short when Python ends."""
    for words in ("inspect faceeraser/weights/int8.tflite", "inspect faceeraser/weights/plan.tflite --json"):
        line = f"{sys.executable} -m faceeraser.cli {words} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() in ("0", "141") and "rror" not in done.stderr, done.stderr


def test_a_photograph_is_erased_beside_itself(photo, model, astronaut, capsys):
    assert run("erase", photo, "--model", model) == 0
    assert "1 face" in (said := capsys.readouterr().out) and "astronaut-erased.png" in said
    assert files(photo.parent) == ["astronaut-erased.png", "astronaut.png"]
    erased = pixels(photo.with_name("astronaut-erased.png"))
    assert erased.shape == astronaut.shape
    assert np.array_equal(pixels(photo), astronaut)
    for x, y in (*PUPILS, LIPS):
        assert is_painted(erased, x, y)


def test_pixels_outside_the_masks_are_bit_identical(photo, model, astronaut):
    run("erase", photo, "--model", model)
    changed = (pixels(photo.with_name("astronaut-erased.png")) != astronaut).any(axis=2)
    (face,) = find_faces(astronaut)
    # Independent of the pasting: where a changed pixel lies in the crop, the mask is set, to the nearest crop pixel.
    mask, _ = face_mask(astronaut, face, SIZE)
    y, x = np.nonzero(changed)
    there = np.rint(transform(align_matrix(face, SIZE), np.stack([x, y], axis=1))).astype(int)
    near = [np.roll(mask, (dy, dx), (0, 1))[there[:, 1], there[:, 0]] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert np.any(near, axis=0).all()
    # And it is the parts alone, with what lies between them: a mask that covers the whole face would pass the above.
    parts, grown = parts_map(face, astronaut.shape) > 0, parts_map(face, astronaut.shape, dilation=DILATION_ERASED) > 0
    assert changed.sum() < 1.1 * grown.sum() and changed[parts].mean() > 0.9


def test_every_face_is_erased(astronaut, model, tmp_path, capsys):
    both = np.hstack([astronaut[:300, 80:380], astronaut[:300, 380:80:-1]])
    Image.fromarray(both).save(tmp_path / "two.png")
    assert run("erase", tmp_path / "two.png", "--model", model) == 0
    assert "2 faces" in capsys.readouterr().out
    erased = pixels(tmp_path / "two-erased.png")
    assert is_painted(erased, LIPS[0] - 80, LIPS[1]) and is_painted(erased, 300 + 380 - LIPS[0], LIPS[1])


def test_parts_say_what_is_erased(photo, model, astronaut):
    assert run("erase", photo, "--model", model, "--parts", "mouth") == 0
    changed = (pixels(photo.with_name("astronaut-erased.png")) != astronaut).any(axis=2)
    assert changed[LIPS[1], LIPS[0]] and not any(changed[y, x] for x, y in PUPILS)
    assert not changed[:120].any()


@pytest.mark.parametrize("parts", ["", "ears", "eyes,ears", "glasses"])
def test_unknown_parts_are_refused(parts, capsys):
    with pytest.raises(SystemExit) as stop:
        run("erase", "a.png", "--parts", parts)
    assert stop.value.code == 2 and "brows,eyes,nose,mouth" in (said := capsys.readouterr().err)
    assert ("--glasses on" in said) == (parts == "glasses")


def test_glasses_are_erased_where_there_are_some(astronaut):
    """A bare face is left as without; on adds the lenses' reach; auto sees glasses that were drawn on."""
    (face,) = find_faces(astronaut)
    masks = {choice: face_mask(astronaut, face, SIZE, glasses=choice) for choice in ("off", "auto", "on")}
    assert not masks["auto"][1] and np.array_equal(masks["auto"][0], masks["off"][0])
    assert masks["on"][1] and (masks["on"][0] >= masks["off"][0]).all() and masks["on"][0].sum() > masks["off"][0].sum()
    worn = astronaut.copy()
    frame = draw_glasses(face, astronaut.shape, lenses=False)
    worn[frame] = 20
    mask, wears = face_mask(worn, face, 256)
    assert wears
    covered = cut(frame.astype(np.float32), align_matrix(face, 256), (256, 256)) > 0.5
    assert mask[covered].mean() > 0.98
    assert not face_mask(worn, face, SIZE, parts=("mouth",))[1], "who keeps the eyes keeps the glasses"


def test_what_lies_between_two_parts_goes_with_them(astronaut):
    """A closed mouth leaves a slit below the nose: a crease of real skin in the middle of the painted."""
    (smiling,) = find_faces(astronaut)
    points = smiling.mesh.copy()
    points[mesh.LIPS, 1] += 0.2 * smiling.eye_distance
    face = Face(points)
    level = face.moved(align_matrix(face, 256))
    parts = parts_map(level, 256) > 0
    mask, _ = face_mask(astronaut, face, 256)

    def pieces(field: np.ndarray) -> int:
        return cv2.connectedComponents(field.astype(np.uint8))[0] - 1

    assert pieces(parts) > 1 and pieces(mask) == 1 and pieces(~mask) == 1
    assert mask[parts_map(level, 256, dilate=0.2) > 0].all()
    reach = cv2.distanceTransform((~parts).astype(np.uint8), cv2.DIST_L2, 5)[mask].max()
    widest = max((DILATION_ERASED[bit] - DILATION[bit]) / DILATION_EYE_DISTANCE for bit in DILATION)
    assert reach < (widest + 0.01) * level.eye_distance


def test_the_frown_between_the_brows_goes_with_them(astronaut):
    """What is left of it between two dilated brows looks like a scar; a cheek between an eye and the mouth stays."""
    (face,) = find_faces(astronaut)
    level = face.moved(align_matrix(face, 256))
    inner = level.mesh[[*mesh.RIGHT_BROW, *mesh.LEFT_BROW]]
    between = np.zeros((256, 256), np.uint8)
    cv2.fillPoly(between, [np.round(cv2.convexHull(inner)).astype(np.int32)], 1)
    for parts in (FEATURES, ("brows",)):
        mask, _ = face_mask(astronaut, face, 256, parts, glasses="off")
        assert mask[between > 0].mean() > 0.99
    kept, _ = face_mask(astronaut, face, 256, ("eyes", "nose", "mouth"), glasses="off")
    assert kept[between > 0].mean() < 0.8
    cheek = np.rint(level.mesh[[117, 346]]).astype(int)
    assert not face_mask(astronaut, face, 256, glasses="off")[0][cheek[:, 1] + 12, cheek[:, 0]].any()


def test_the_colour_profile_comes_along(photo, model):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(photo) as picture:
        picture.save(photo, icc_profile=profile)
    run("erase", photo, "--model", model)
    with Image.open(photo.with_name("astronaut-erased.png")) as erased:
        assert erased.info["icc_profile"] == profile


# --- erase: where results go -----------------------------------------------------------------------------------------


def test_the_output_can_be_a_file_or_a_folder(photo, model, tmp_path):
    for output, expected in (("out/face.webp", "out/face.webp"), ("made", "made/astronaut-erased.png")):
        assert run("erase", photo, tmp_path / output, "--model", model) == 0
        assert is_painted(pixels(tmp_path / expected), *LIPS)
    assert files(photo.parent) == ["astronaut.png"]


def test_a_folder_keeps_its_names_and_bad_pictures_do_not_stop_the_rest(photo, model, tmp_path, capsys):
    deep = photo.parent / "deep"
    deep.mkdir()
    Image.open(photo).save(deep / "again.jpg", quality=95)
    Image.open(photo).save(deep / "moves.gif")
    Image.fromarray(np.full((80, 90, 3), 128, np.uint8)).save(deep / "grey.png")
    (deep / "broken.jpg").write_bytes(photo.read_bytes()[:2000])
    (deep / "broken.mp4").write_bytes(b"no video")
    (deep / "notes.txt").write_text("no picture")
    assert run("erase", photo.parent, tmp_path / "out", "--model", model) == 2
    assert files(tmp_path / "out") == ["astronaut.png", "deep/again.jpg", "deep/moves.png"], "what cannot be written is .png"
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "3 of 6 done"
    assert "broken.jpg" in said.err and "grey.png: no face found" in said.err and "broken.mp4: is no video" in said.err
    assert len(said.err.replace("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n", "").splitlines()) == 3


def test_a_folder_has_a_place_of_its_own_for_results(photo, model, tmp_path):
    assert run("erase", photo.parent, "--model", model) == 0
    assert files(tmp_path) == ["photos-erased/astronaut.png", "photos/astronaut.png"]


def test_results_in_the_folder_that_is_searched_are_not_erased_again(photo, model, capsys):
    arguments = ("erase", photo.parent, photo.parent / "erased", "--model", model)
    assert run(*arguments) == 0 and run(*arguments, "--overwrite") == 0
    assert files(photo.parent) == ["astronaut.png", "erased/astronaut.png"]


def test_an_existing_result_is_refused_and_left_alone(photo, model, capsys):
    there = photo.with_name("astronaut-erased.png")
    there.write_text("mine")
    assert run("erase", photo, "--model", model) == 2
    assert "--overwrite" in errors(capsys) and there.read_text() == "mine"
    assert run("erase", photo, "--model", model, "--overwrite") == 0
    assert is_painted(pixels(there), *LIPS)


def test_where_results_cannot_go(photo, model, tmp_path, capsys):
    twin = photo.with_suffix(".gif")
    Image.open(photo).save(twin)
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ((photo, photo, "--overwrite"), "the result would replace it"),
        ((photo.parent, photo.parent, "--overwrite"), "the result would replace it"),
        ((photo.parent, tmp_path / "one.png"), "is one file; the results of the folder"),
        ((photo.parent, tmp_path / "file"), "is one file; the results of the folder"),
        ((photo, tmp_path / "one.gif"), "expected one of .png"),
        ((photo, tmp_path / "one.mp4"), "expected one of .png"),
        ((tmp_path / "a.mp4", tmp_path / "one.png"), "expected one of .mp4"),
        ((photo, tmp_path / "file" / "one.png"), "is a file; choose another OUT"),
        ((model.parent, tmp_path / "out"), "no photographs or videos in it"),
        ((), "expected IN"),
        ((photo, "--camera"), "cannot write this kind"),
        ((photo, tmp_path / "out", "--camera", "0"), "takes the place of IN"),
        (("--camera", tmp_path / "a.mp4"), "expected a camera's number"),
    ):
        assert run("erase", *arguments, "--model", model) == 2
        assert message in errors(capsys), arguments
    assert files(tmp_path) == ["file", "photos/astronaut.gif", "photos/astronaut.png"]


def test_nothing_half_written_is_left(photo, model, monkeypatch, capsys):
    def breaks(self: Image.Image, file: io.BytesIO, *_: object, **options: object) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", breaks)
    assert run("erase", photo, "--model", model) == 2
    assert "No space left" in errors(capsys) and files(photo.parent) == ["astronaut.png"]


@pytest.mark.parametrize(
    ("there", "arguments", "expected"),
    [
        (["a.png", "b.png"], ["a.png", "b.png", "--overwrite"], ["a-erased.png", "b-erased.png"]),
        (["a.png"], ["a.png", "b.png"], ["b.png"]),
        (["a.png", "f/x.png"], ["a.png", "f"], ["f/a-erased.png"]),
        (["a.png", "b.png", "c.png"], ["a.png", "b.png", "c.png"], ["a-erased.png", "b-erased.png", "c-erased.png"]),
        (["a.png", "b.png"], ["a.png", "b.png", "-o", "out"], ["out/a-erased.png", "out/b-erased.png"]),
        (["a.png", "f/x.png"], ["a.png", "f", "-o", "out"], ["out/a-erased.png", "out/f/x.png"]),
        (
            ["a.png", "a.bmp"],
            ["a.png", "a.bmp", "--mask-out", "m"],
            ["a-png-erased.png", "a-bmp-erased.png", "m/a-png-mask.png", "m/a-bmp-mask.png"],
        ),
        (["f/a.png", "f/a.gif"], ["f"], ["f-erased/a-png.png", "f-erased/a-gif.png"]),
    ],
)
def test_what_is_in_and_what_is_out(there, arguments, expected, astronaut, model, tmp_path, monkeypatch):
    """Two photographs of a shell's `*.png` are never IN and OUT: neither is overwritten, whatever is said."""
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(astronaut).save(name)
    assert run("erase", *arguments, "--model", model) == 0
    assert set(files(tmp_path)) == {*there, *expected}
    assert all(is_painted(pixels(Path(name)), *LIPS) for name in expected if "mask" not in name)
    assert all(np.array_equal(pixels(Path(name)), astronaut) for name in there if not name.endswith(".gif"))


def test_out_that_is_no_telling(photo, model, tmp_path, capsys):
    again = photo.with_name("again.png")
    shutil.copy(photo, again)
    for arguments, message in (
        ((photo, again, tmp_path / "gone"), "after -o"),
        ((photo, again, "-o", tmp_path / "one.png"), "is one file; the results of 2 INs"),
        ((tmp_path / "gone.png", photo), "gone.png: cannot be opened"),
        ((photo, "--mask-out", tmp_path / "m.gif"), "--mask-out"),
        ((photo, again, "-o", tmp_path / "out", "--mask", photo), "--mask is for a single photograph"),
    ):
        assert run("erase", *arguments, "--model", model) == 2
        assert message in errors(capsys), arguments
    assert files(tmp_path) == ["photos/again.png", "photos/astronaut.png"]


def test_names_that_no_terminal_prints_and_names_as_long_as_names_can_be(astronaut, model, tmp_path):
    """In a process whose terminal knows ASCII alone."""
    odd, long = os.fsdecode(b"caf\xe9.png"), "x" * 251 + ".png"
    (tmp_path / "in").mkdir()
    for name in (odd, long, "z.png"):
        Image.fromarray(astronaut).save(tmp_path / "in" / name)
    code = "import sys; from faceeraser.cli import main; sys.exit(main(['erase', *sys.argv[1:]]))"
    arguments = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(model)]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0 and "3 of 3 done" in done.stdout, done.stderr
    assert {os.fsencode(name) for name in os.listdir(tmp_path / "out")} == {os.fsencode(n) for n in (odd, long, "z.png")}


def test_whatever_a_file_raises_is_its_own(photo, model, monkeypatch, capsys):
    """A library's own kind of error on the first of two: one line, no traceback, and the second is done."""
    Image.open(photo).save(photo.with_name("b.png"))
    real = picture.opened

    def opened(path: Path):
        if path == photo:
            raise RecursionError("too deep")
        return real(path)

    monkeypatch.setattr(picture, "opened", opened)
    assert run("erase", photo.parent, "-o", photo.parent / "out", "--model", model) == 2
    said = capsys.readouterr()
    assert "1 of 2 done" in said.out and f"{photo}: " in said.err and "too deep" in said.err
    assert files(photo.parent / "out") == ["b.png"]


# --- erase: which faces, which pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "erased"), [("largest", [True, False]), ("1", [True, False]), ("2", [True, True]), ("all", [True, True])]
)
def test_which_faces_are_erased(choice, erased, astronaut, model, tmp_path):
    both = np.zeros((600, 1100, 3), np.uint8)
    both[:600, :600] = cv2.resize(astronaut[:300, 80:380], (600, 600))
    both[100:400, 750:1050] = astronaut[:300, 80:380]
    Image.fromarray(both).save(tmp_path / "two.png")
    assert run("erase", tmp_path / "two.png", "--model", model, "--faces", choice) == 0
    after = pixels(tmp_path / "two-erased.png")
    places = [(2 * (LIPS[0] - 80), 2 * LIPS[1]), (750 + LIPS[0] - 80, 100 + LIPS[1])]
    assert [is_painted(after, *place) for place in places] == erased


@pytest.mark.parametrize("count", ["0", "-1", "some"])
def test_how_many_faces_cannot_be_meant(count, capsys):
    with pytest.raises(SystemExit) as stop:
        run("erase", "a.png", f"--faces={count}")
    assert stop.value.code == 2 and "expected largest, all or a number" in capsys.readouterr().err


def test_a_mask_says_what_is_erased_and_nothing_else_is(photo, model, astronaut, tmp_path):
    """On the face and far from it, to the pixel; on a picture without a face too."""
    mask = np.zeros(astronaut.shape[:2], np.uint8)
    cv2.circle(mask, LIPS, 9, 255, -1)
    mask[400:430, 60:130] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert run("erase", photo, tmp_path / "out.png", "--model", model, "--mask", tmp_path / "m.png") == 0
    changed = (pixels(tmp_path / "out.png") != astronaut).any(axis=2)
    assert not changed[mask == 0].any() and changed[mask > 0].mean() > 0.98
    assert is_painted(pixels(tmp_path / "out.png"), 95, 415)


def test_the_mask_of_what_was_erased(photo, model, astronaut, tmp_path):
    assert run("erase", photo, tmp_path / "out.png", "--model", model, "--mask-out", tmp_path / "m.png") == 0
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        mask = np.array(image)
    changed = (pixels(tmp_path / "out.png") != astronaut).any(axis=2)
    assert set(np.unique(mask)) == {0, 255} and not changed[mask == 0].any() and changed[mask > 0].mean() > 0.95


def test_a_profile_of_parts_is_a_name_for_a_list(photo, model, tmp_path):
    run("erase", photo, tmp_path / "a.png", "--model", model, "--parts", "lower")
    run("erase", photo, tmp_path / "b.png", "--model", model, "--parts", "nose,mouth")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert set(PROFILES["all"]) == set(FEATURES)


def test_grey_stays_grey(photo, model, astronaut, tmp_path):
    """Whether it is stored so or as three channels that are alike: COLOUR is no grey."""
    for mode in ("L", "RGB"):
        Image.fromarray(astronaut).convert("L").convert(mode).save(photo)
        assert run("erase", photo, "-o", tmp_path / f"{mode}.png", "--model", model) == 0
        with Image.open(tmp_path / f"{mode}.png") as erased:
            assert erased.mode == mode
            after = np.array(erased.convert("RGB"))
        assert (np.ptp(after, axis=2) == 0).all() and after[LIPS[1], LIPS[0], 0] != pixels(photo)[LIPS[1], LIPS[0], 0]


HELP = """
import contextlib
from faceeraser import cli
with contextlib.suppress(SystemExit):
    cli.main(["erase", "--help"])
"""


@pytest.mark.parametrize("code", ["import faceeraser", HELP])
def test_importing_and_help_are_quick(code):
    """At most 0.15 s of computing beside Python's own, and nothing that takes long is loaded."""
    last = "\nimport sys, time; print(time.process_time(), *sorted({name.split('.')[0] for name in sys.modules}))"

    def ran(code: str) -> tuple[float, set[str]]:
        done = subprocess.run([sys.executable, "-c", code + last], capture_output=True, text=True, cwd=ROOT, check=True)
        seconds, *names = done.stdout.splitlines()[-1].split()
        return float(seconds), set(names)

    runs, empty = [ran(code) for _ in range(3)], [ran("pass") for _ in range(3)]
    assert min(seconds for seconds, _ in runs) - min(seconds for seconds, _ in empty) < 0.15
    assert not {"numpy", "cv2", "PIL", "av", "tifffile", "pillow_heif", "ai_edge_litert", "torch"} & runs[0][1]


def test_what_the_help_names_is_what_there_is():
    assert tuple(TFLITE_RUNTIMES) == cli.RUNTIMES and tuple(effects.BLENDS) == cli.BLENDS


# --- erase: what can be wrong ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("landmarks")
def test_a_picture_without_a_face(model, tmp_path, capsys):
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 300, 3))).save(tmp_path / "sky.png")
    assert run("erase", tmp_path / "sky.png", "--model", model) == 2
    assert "sky.png: no face found" in errors(capsys) and files(tmp_path) == ["sky.png"]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"], ids=["empty", "text", "cut"])
def test_a_corrupt_photograph(model, tmp_path, capsys, content):
    (tmp_path / "bad.png").write_bytes(content)
    assert run("erase", tmp_path / "bad.png", "--model", model) == 2
    assert "bad.png" in errors(capsys) and files(tmp_path) == ["bad.png"]


def test_a_photograph_that_is_not_there(model, tmp_path, capsys):
    assert run("erase", tmp_path / "gone.png", "--model", model) == 2
    assert "gone.png: cannot be opened" in errors(capsys)


def test_models_that_are_none(model, tmp_path, capsys):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "lone.tflite").write_bytes(model.read_bytes())
    for arguments, message in (
        (("--model", tmp_path / "gone.tflite"), "no such file"),
        (("--model", tmp_path / "lone.tflite"), "no card beside it"),
        (("--model", tmp_path / "a.png"), "expected a file ending in .tflite"),
        (("--model", tmp_path / "folder"), "generators.safetensors"),
    ):
        assert run("erase", tmp_path / "a.png", *arguments) == 2
        assert message in errors(capsys)
    assert not (tmp_path / "a-erased.png").exists()


def test_erasing_loads_no_training_framework(photo, model):
    """The base install is enough: what the process has loaded after a whole erase and an inspect."""
    code = (
        "import sys; from faceeraser.cli import main; model, photo = sys.argv[1:]\n"
        "assert main(['erase', photo, '--model', model, '--runtime', 'ai_edge_litert']) == 0\n"
        "assert main(['inspect', model]) == 0\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    arguments = [sys.executable, "-c", code, str(model), str(photo)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    heavy = {"torch", "tensorflow", "skimage", "scipy", "pandas", "matplotlib", "tabulate", "safetensors"}
    assert not heavy & loaded and "ai_edge_litert" in loaded


def test_a_checkpoint_folder_is_a_model_too(photo, run_folder, tmp_path):
    """Through torch, which is loaded then and only then; the network is random, so all that is asked is where it painted."""
    assert run("erase", photo, tmp_path / "out.png", "--model", run_folder) == 0
    changed = (pixels(tmp_path / "out.png") != pixels(photo)).any(axis=2)
    assert changed[LIPS[1], LIPS[0]] and 0.01 < changed.mean() < 0.1


@pytest.mark.slow
def test_a_picture_of_a_hundred_megapixels_needs_little_more_than_itself(astronaut, model, tmp_path):
    """12000 x 9000: 324 MB as it is. Decoded, copied and written it may be there a few times, and never as floats."""
    large = np.full((9000, 12000, 3), 90, np.uint8)
    large[2000:8000, 3000:9000] = cv2.resize(astronaut[:300, 70:370], (6000, 6000))
    Image.fromarray(large).save(tmp_path / "large.bmp")
    del large
    code = (
        "import resource, sys; from faceeraser.cli import main\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert main(['erase', *sys.argv[1:3], '--model', sys.argv[3], '--runtime', 'ai_edge_litert']) == 0\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "large.bmp"), str(tmp_path / "out.bmp"), str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 4.2 * 324, "megabytes"


# --- inspect ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the smallest network."""
    from faceeraser.model import checkpoint
    from faceeraser.model.config import Config
    from faceeraser.model.networks import FaceEraser

    folder = tmp_path_factory.mktemp("runs") / "fp32"
    with writing.whole_folder(folder) as partial:
        checkpoint.save(
            partial,
            FaceEraser(Config.of("mobile", resolution=SIZE), width=4),
            stage="prune",
            options={"seed": 1},
            metrics={"before": {"gmacs": 2.0}, "after": {"gmacs": 1.25, "params": 4321, "psnr_hole_mirrored": 30.5}},
            data={"name": "skin", "source": "synthetic"},
        )
    return folder


def test_inspect_shows_a_card(model, capsys):
    assert run("inspect", model) == 0
    said = capsys.readouterr().out
    for part in ("tflite, fp32", f"image 1x{SIZE}x{SIZE}x3 NHWC float32", "passed yes", "train-inpaint", "31.25"):
        assert part in said
    assert run("inspect", model, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    inside = printed.pop("contents")
    assert printed == read_card(model) and inside == contents.listing(model)


def test_inspect_shows_a_folders_structure_and_history(run_folder, capsys):
    assert run("inspect", run_folder) == 0
    said = capsys.readouterr().out
    for part in ("mobile", "unet_attention", "edge", "clone", "refine", "prune", "synthetic", "1.25", "4,321", "30.5"):
        assert part in said
    assert run("inspect", run_folder, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["preset"] == "mobile" and printed["history"][0]["options"] == {"seed": 1}
    network = faceeraser.load_checkpoint(run_folder)
    for row in printed["generators"]:
        part = getattr(network, row["generator"])
        assert row["params"] == sum(p.numel() for p in part.parameters())
    assert [row["generator"] for row in printed["generators"]] == ["clone", "edge", "refine"]


def test_inspecting_a_folder_loads_no_torch(run_folder):
    code = (
        "import sys; from faceeraser.cli import main\n"
        "assert main(['inspect', sys.argv[1]]) == 0; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_folder)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_what_cannot_be_inspected(run_folder, tmp_path, capsys):
    for name, change in (
        ("generators.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")),
        ("config.json", lambda path: path.unlink()),
        ("history.json", lambda path: path.write_text("[")),
    ):
        copy = tmp_path / name
        shutil.copytree(run_folder, copy)
        change(copy / name)
        assert run("inspect", copy) == 2
        assert name in errors(capsys)
    (tmp_path / "a.txt").write_text("")
    for path in (tmp_path / "a.txt", tmp_path / "gone", tmp_path / "gone.tflite", tmp_path):
        assert run("inspect", path) == 2
        assert str(path) in errors(capsys)


# --- the package -----------------------------------------------------------------------------------------------------


def test_load_gives_what_is_there(model, run_folder, tmp_path):
    assert isinstance(faceeraser.load(model), faceeraser.Eraser) and isinstance(faceeraser.Artifact(model), Artifact)
    assert isinstance(faceeraser.load(str(run_folder)), faceeraser.Eraser)
    assert isinstance(faceeraser.load_checkpoint(str(run_folder)), faceeraser.FaceEraser)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        faceeraser.load(tmp_path / "gone")
    with pytest.raises(ValueError, match="expected a checkpoint folder"):
        faceeraser.load(tmp_path)
    with pytest.raises(AttributeError):
        faceeraser.nothing  # noqa: B018


def test_without_torch_the_error_names_the_extra(run_folder):
    code = (
        "import sys; sys.modules['torch'] = None; import faceeraser\n"
        "for ask in (lambda: faceeraser.FaceEraser, lambda: faceeraser.load(sys.argv[1])):\n"
        "    try: ask()\n"
        "    except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_folder)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.count("pip install 'faceeraser[train]'") == 2


def test_the_version_is_the_projects(capsys):
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert faceeraser.__version__ == told
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"faceeraser {told}\n"


def test_a_searched_folder_gives_photographs_and_videos_and_not_earlier_results(tmp_path):
    for name in ("a.jpg", "b.MP4", "a-erased.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    planned = jobs.plan([tmp_path], None, "erased", False)
    out = tmp_path.with_name(f"{tmp_path.name}-erased")
    assert planned == [jobs.Job(tmp_path / "a.jpg", out / "a.jpg", False), jobs.Job(tmp_path / "b.MP4", out / "b.MP4", True)]
    named = tmp_path / "a-erased.png"
    assert jobs.plan([named], None, "erased", False) == [jobs.Job(named, tmp_path / "a-erased-erased.png", False)]


def test_a_link_that_leads_to_itself_is_one_line_and_the_rest_of_the_folder_is_processed(
    astronaut, landmarks, tmp_path, capsys
):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    Image.fromarray(astronaut).save(folder / "good.png")
    assert cli.main(["erase", str(folder)]) == 2
    assert (tmp_path / "photos-erased" / "good.png").is_file() and "Traceback" not in capsys.readouterr().err
    assert cli.main(["erase", str(folder / "loop.png")]) == 2
