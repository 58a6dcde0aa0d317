"""Effects on an erased face: what stands where, how it is blended, and what a user's own file may say."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceeraser import cli
from faceeraser.face import effects
from faceeraser.face.finder import find_faces
from faceeraser.face.mesh import MESH_POINTS, Face, transform
from faceeraser.face.parts import parts_map

NAMES = ("eyebrowless", "mono-eye", "comic", "toonized", "small-face")


@pytest.fixture(scope="module")
def astronaut(landmarks) -> tuple[np.ndarray, np.ndarray, Face]:
    """The astronaut, the same with a flat patch for a face, and her landmarks."""
    from skimage.data import astronaut as picture

    image = picture()
    face = find_faces(image)[0]
    erased = image.copy()
    erased[parts_map(face, image.shape, dilate=1.4) > 0] = np.median(image[90:110, 210:240], (0, 1))
    return image, erased, face


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(2)


def test_the_papers_five_effects_are_there_and_each_names_what_it_does():
    known = effects.read()
    assert set(known) == set(NAMES)
    assert all(effect["told"] and effect["elements"] for effect in known.values())


@pytest.mark.parametrize("blend", list(effects.BLENDS))
@pytest.mark.parametrize("name", NAMES)
def test_an_effect_changes_the_face_and_nothing_far_from_it(name, blend, astronaut):
    image, erased, face = astronaut
    result = effects.apply(effects.read()[name], image, erased, face, blend)
    moved = changed(erased, result)
    assert 0.005 < moved.mean() < 0.1
    rows, columns = np.nonzero(moved)
    low, high = face.mesh.min(0) - face.eye_distance, face.mesh.max(0) + face.eye_distance
    assert low[0] < columns.min() and columns.max() < high[0] and low[1] < rows.min() and rows.max() < high[1]


def test_eyebrowless_brings_all_parts_back_to_their_place_but_the_brows(astronaut):
    image, erased, face = astronaut
    result = effects.apply(effects.read()["eyebrowless"], image, erased, face).astype(float)
    for part in ("right_eye", "left_eye", "nose", "mouth"):
        inner = cv2.erode(effects.piece_mask(face, part, image.shape[:2]).astype(np.uint8), np.ones((7, 7))) > 0
        assert np.corrcoef(result[inner].ravel(), image[inner].ravel())[0, 1] > 0.9, part
        assert np.corrcoef(erased[inner].ravel(), image[inner].ravel())[0, 1] < 0.7, part
    brows = effects.piece_mask(face, "right_brow", image.shape[:2]) & ~effects.piece_mask(face, "right_eye", image.shape[:2])
    assert np.abs(result - erased)[brows].mean() < 2


def test_the_one_eye_stands_above_the_nose(astronaut):
    image, erased, face = astronaut
    elements = [e for e in effects.read()["mono-eye"]["elements"] if e["piece"] == "left_eye"]
    moved = changed(erased, effects.apply({"elements": elements}, image, erased, face))
    rows, columns = np.nonzero(moved)
    assert abs(columns.mean() - face.eyes[:, 0].mean()) < 0.1 * face.eye_distance
    assert rows.mean() < face.mesh[168][1], "above the nose's root"


@given(
    x=st.floats(-0.4, 0.4),
    y=st.floats(-0.3, 0.8),
    scale=st.floats(0.5, 1.6),
    turn=st.floats(-30, 30),
    size=st.floats(0.5, 2),
)
@settings(max_examples=30, deadline=None)
def test_a_place_on_the_face_does_not_depend_on_where_the_face_is(x, y, scale, turn, size):
    """An element's place, in the face's own unit, is the same point of any face, however it is turned and however large."""
    rng = np.random.default_rng(0)
    face = Face(rng.uniform(100, 200, (MESH_POINTS, 2)).astype(np.float32))
    angle = np.deg2rad(turn)
    turned = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turned, [[30.0], [-12.0]]])
    centre, element = face.mesh[33].astype(float), {"to": [x, y]}
    here = transform(effects._place(element, centre, scale, face), centre[None])
    other, moved = face.moved(matrix), transform(matrix, centre[None])
    there = transform(effects._place(element, moved[0], scale, other), moved)
    assert np.allclose(transform(matrix, here), there, atol=1e-2)


@pytest.mark.parametrize("clone", [effects.poisson_clone, effects.fast_clone])
def test_a_piece_takes_the_light_of_where_it_is_laid(clone):
    """Skin that is a fifth darker than where it comes to lie is lit; a black pupil in it stays black."""
    y, x = np.indices((80, 80))
    source = np.full((80, 80, 3), (120, 90, 75), np.uint8)
    source[(x - 40) ** 2 + (y - 40) ** 2 < 30] = 5
    target = np.full((80, 80, 3), (144, 108, 90), np.uint8)
    result = clone(source, (x - 40) ** 2 + (y - 40) ** 2 < 400, target)
    assert np.abs(result[40, 26].astype(int) - target[0, 0]).max() <= 3, "no step at the border, nor behind it"
    assert result[40, 40].max() < 15
    assert np.array_equal(result[:15], target[:15])


def test_the_fast_blend_is_close_to_poissons(astronaut):
    image, erased, face = astronaut
    for name in NAMES:
        slow, fast = (effects.apply(effects.read()[name], image, erased, face, blend) for blend in effects.BLENDS)
        where = changed(erased, slow) | changed(erased, fast)
        assert np.abs(slow.astype(float) - fast)[where].mean() < 3, name


@pytest.mark.parametrize(("sweeps", "most"), [(48, 0.01), (2, 0.05)])
def test_the_light_of_a_piece_is_the_harmonic_function_of_its_border(sweeps, most):
    """Against Laplace's equation on the five-point stencil, solved as a linear system."""
    y, x = np.indices((30, 34))
    inside = ((x - 16) / 12) ** 2 + ((y - 14) / 9) ** 2 < 1
    inside[14:17, 16:28] = False  # a notch: no disc
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((3, 3))) > 0) & ~inside
    difference = np.sin(x / 5 + y / 9).astype(np.float32) * 0.3
    cells = {cell: k for k, cell in enumerate(zip(*np.nonzero(inside), strict=True))}
    system, right = np.zeros((len(cells), len(cells))), np.zeros(len(cells))
    for (row, column), k in cells.items():
        system[k, k] = 4
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if near in cells:
                system[k, cells[near]] = -1
            else:
                right[k] += difference[near]
    light = effects._membrane(np.repeat(difference[..., None], 3, axis=2), ring.astype(np.float32), sweeps)
    off = np.abs(light[inside] - np.linalg.solve(system, right)[:, None])
    assert off.mean() < most and off.max() < 5 * most


def test_an_element_of_ones_own_is_laid_where_the_file_says(astronaut, tmp_path):
    image, erased, face = astronaut
    dot = np.zeros((40, 40, 4), np.uint8)
    dot[10:30, 10:30] = (0, 0, 255, 255)  # blue, as a PNG of RGBA
    Image.fromarray(dot).save(tmp_path / "dot.png")
    own = {"elements": [{"image": "dot.png", "landmark": 4, "width": 0.5}]}
    (tmp_path / "nose.json").write_text(json.dumps(own))
    effect = effects.read(tmp_path / "nose.json")["nose"]
    result = effects.apply(effect, image, erased, face, folder=tmp_path)
    x, y = face.mesh[4].round().astype(int)
    assert result[y, x, 2] > 250 and result[y, x, 0] < 5
    side = np.sqrt(changed(erased, result).sum())
    assert side == pytest.approx(0.25 * face.eye_distance, abs=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "expected {"),
        ("[]", "expected {"),
        ('{"elements": [{"piece": "ear"}]}', "found piece 'ear'; expected one of right_brow"),
        ('{"elements": [{"piece": "nose", "image": "a.png"}]}', "either a piece of the face or an image"),
        ('{"elements": [{}]}', "either a piece of the face or an image"),
        ('{"elements": [{"piece": "nose", "scale": 0}]}', "found scale 0; expected a number above 0"),
        ('{"elements": [{"piece": "nose", "to": [1]}]}', "expected two numbers"),
        ('{"elements": [{"piece": "nose", "colour": 1}]}', "found 'colour'"),
        ('{"elements": [{"image": "a.png", "landmark": 468}]}', "0 to 467"),
        ('{"elements": [{"image": "a.png", "angle": "up"}]}', "expected degrees"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(text, message, tmp_path, capsys):
    own = tmp_path / "own.json"
    own.write_text(text)
    pictures = [str(tmp_path / name) for name in ("face.png", "out.png")]
    assert cli.main(["effect", "custom", *pictures, "--elements", str(own)]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sad"], "effect 'sad' is not known: expected one of"),
        (["custom"], "expected --elements FILE"),
        (["comic", "--elements", "x.json"], "--elements is for the effect custom"),
    ],
)
def test_an_effect_that_is_not_there_is_one_line(arguments, message, tmp_path, capsys):
    name, *more = arguments
    assert cli.main(["effect", name, "face.png", str(tmp_path / "out.png"), *more]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_command_writes_a_picture_for_a_photograph(astronaut, tmp_path, capsys):
    image, _erased, face = astronaut
    Image.fromarray(image).save(tmp_path / "astronaut.png")
    assert cli.main(["effect", "toonized", str(tmp_path / "astronaut.png"), str(tmp_path / "toon.png")]) == 0
    assert "1 face -> " in capsys.readouterr().out
    result = np.asarray(Image.open(tmp_path / "toon.png"))
    moved = changed(image, result)
    assert 0.01 < moved.mean() < 0.15 and not moved[: int(face.mesh[:, 1].min() - face.eye_distance)].any()
    assert cli.main(["effect", "comic", str(tmp_path / "astronaut.png"), "-o", str(tmp_path / "toon.png")]) == 2
    assert "exists already" in capsys.readouterr().err
