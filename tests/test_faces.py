"""What finding a face promises, its parts, its crop and what is pasted back, its glasses."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceeraser.erasing import Eraser
from faceeraser.face import landmark_models, landmarks, masks, picture
from faceeraser.face.crops import align, align_matrix, cut, paste_back
from faceeraser.face.finder import Detection, Looked, find_faces, shared
from faceeraser.face.glasses import draw_glasses, fill_beside, glasses_score, segment_glasses, worn_temples
from faceeraser.face.masks import face_mask
from faceeraser.face.mesh import (
    LEFT_BROW,
    LEFT_EYE,
    LIPS,
    MESH_POINTS,
    NOSE_OUTLINE,
    OVAL,
    RIGHT_BROW,
    RIGHT_EYE,
    Face,
    transform,
)
from faceeraser.face.parts import DILATION, DILATION_EYE_DISTANCE, PARTS, POLYGONS, parts_map


def ellipse(x: float, y: float, rx: float, ry: float, n: int) -> np.ndarray:
    steps = np.linspace(0, 2 * math.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(steps), y + ry * np.sin(steps)], axis=1)


def make_face(scale: float = 1.0, roll: float = 0.0, centre: tuple[float, float] = (128.0, 128.0)) -> Face:
    """A face of ellipses, eyes 90 pixels apart at scale 1, turned by `roll` degrees."""
    mesh = np.zeros((MESH_POINTS, 2))
    mesh[OVAL] = ellipse(0, 0, 95, 122, len(OVAL))
    for side, eye, brow in ((-1, RIGHT_EYE, RIGHT_BROW), (1, LEFT_EYE, LEFT_BROW)):
        mesh[eye] = ellipse(45 * side, -40, 18, 8, len(eye))
        mesh[brow] = ellipse(45 * side, -66, 26, 6, len(brow))
    mesh[NOSE_OUTLINE] = ellipse(0, -5, 20, 30, len(NOSE_OUTLINE))
    mesh[LIPS] = ellipse(0, 55, 32, 14, len(LIPS))
    mesh[127], mesh[356] = [-95, -30], [95, -30]
    angle = math.radians(roll)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return Face((mesh * scale @ turn + centre).astype(np.float32))


def smooth_picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [120 + 60 * np.sin(x / 29 + k) + 50 * np.cos(y / 37 - k) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ cutting and pasting


def test_cutting_averages_areas_when_it_shrinks() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::8] = 248  # sampling every eighth column would miss them or see nothing else
    small = cut(stripes, np.array([[1 / 8, 0, -7 / 16], [0, 1 / 8, -7 / 16]]), (64, 64))
    assert np.abs(small.astype(int) - 31).max() <= 2


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 3), st.floats(-40, 40), st.floats(-60, 60), st.floats(-60, 60))
def test_an_aligned_face_is_level_and_fills_the_crop(scale: float, roll: float, x: float, y: float) -> None:
    face = make_face(scale, roll, (300 + x, 300 + y))
    assert face.roll == pytest.approx(roll, abs=0.01)
    moved = face.moved(align_matrix(face, 256))
    assert moved.roll == pytest.approx(0, abs=0.01)
    oval = moved.mesh[OVAL]
    assert oval.min() >= 0 and oval.max() <= 255
    assert np.ptp(oval[:, 1]) > 0.9 * 256
    assert moved.eyes[0, 0] < moved.eyes[1, 0] and moved.eyes[0, 1] < 128


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 2), st.floats(-30, 30), st.integers(0, 2**31), st.floats(0, 8))
def test_pasting_changes_nothing_outside_the_mask(scale: float, roll: float, seed: int, feather: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (420, 400, 3), dtype=np.uint8)
    face = make_face(scale, roll, (190, 210))
    crop, matrix = align(image, face, 128)
    mask = cv2.GaussianBlur(rng.random((128, 128)), (0, 0), 6) > 0.5
    pasted = paste_back(image, 255 - crop, matrix, mask, feather=feather)
    # Each picture pixel's place in the crop says whether the mask covers it; half a crop pixel is rounding.
    y, x = np.mgrid[:420, :400]
    there = transform(matrix, np.stack([x.ravel(), y.ravel()], axis=1))
    near = np.round(there).astype(int)
    inside = ((near >= 0) & (near < 128)).all(1)
    covered = np.zeros(len(near), bool)
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    covered[inside] = grown[near[inside, 1], near[inside, 0]]
    same = (pasted == image).all(2).ravel()
    assert same[~covered].all()
    assert not same.all()


def test_pasting_the_crop_itself_gives_the_picture_back() -> None:
    image = smooth_picture(420, 400)
    for scale in (0.5, 1.0, 1.6):
        face = make_face(scale, 12, (200, 210))
        crop, matrix = align(image, face, 256)
        pasted = paste_back(image, crop, matrix, np.ones((256, 256), bool))
        assert np.abs(pasted.astype(int) - image).max() <= 3, scale


def test_pasted_pixels_arrive_at_full_strength_inside() -> None:
    image = smooth_picture(300, 300)
    face = make_face(1.0, 0, (150, 150))
    crop, matrix = align(image, face, 256)
    mask = np.zeros((256, 256), bool)
    mask[100:160, 90:170] = True
    pasted = paste_back(image, np.full_like(crop, 7), matrix, mask)
    x, y = np.round(transform(cv2.invertAffineTransform(matrix), np.array([[130.0, 130.0]]))[0]).astype(int)
    assert (pasted[y, x] == 7).all()
    assert np.array_equal(paste_back(image, crop, matrix, np.zeros((256, 256), bool)), image)


def test_wrong_shapes_are_refused_with_what_was_found() -> None:
    face, image = make_face(), smooth_picture(64, 64)
    with pytest.raises(ValueError, match=r"float64 \(64, 64, 3\); expected"):
        align(image / 255.0, face)
    with pytest.raises(ValueError, match=r"\(5, 5\); expected \(64, 64\)"):
        paste_back(image, image, np.eye(2, 3), np.ones((5, 5)))
    with pytest.raises(ValueError, match=r"\(3, 2\); expected \(468, 2\)"):
        Face(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="glasses mask"):
        parts_map(face, 64, glasses=np.zeros((3, 3)))


# -------------------------------------------------------------------------------------------------------------- parts


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 2.5), st.floats(-45, 45), st.floats(-150, 150), st.floats(0, 2))
def test_parts_are_their_polygons_grown_by_their_dilation(scale: float, roll: float, shift: float, dilate: float) -> None:
    face = make_face(scale, roll, (160 + shift, 170 - shift))
    field = parts_map(face, (330, 340, 3), dilate=dilate)
    assert field.shape == (330, 340) and field.dtype == np.uint8 and not (field & 240).any()
    for bit, polygons in POLYGONS.items():
        drawn = np.zeros((330, 340), np.uint8)
        for polygon in polygons:
            cv2.fillPoly(drawn, [np.round(face.mesh[polygon] * 16).astype(np.int32)], 1, shift=4)
        part = (field & bit) > 0
        core = cv2.erode(drawn, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0
        assert part[core].all(), "a polygon is always covered"
        reach = dilate * DILATION[bit] * face.eye_distance / DILATION_EYE_DISTANCE
        points = np.concatenate([face.mesh[polygon] for polygon in polygons])
        if points.min() > reach + 2 and (points < [337 - reach, 327 - reach]).all():  # nothing is cut off
            far = cv2.distanceTransform(1 - drawn, cv2.DIST_L2, 5)
            assert reach - 1.5 <= far[part].max() <= reach + 1e-3


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_ends_inside_the_face_and_covers_every_part(turned: bool) -> None:
    mesh = 90 * landmarks._mean_face() + 300
    if turned:  # the outline comes close to the eye on one side
        mesh[:, 0] = np.minimum(mesh[:, 0], mesh[LEFT_EYE + LEFT_BROW, 0].max() + 2)
    face, image = Face(mesh.astype(np.float32)), np.full((600, 600, 3), 150, np.uint8)
    mask, _ = face_mask(image, face, 256, glasses="off")
    level = face.moved(align_matrix(face, 256))
    outline, parts = np.zeros((256, 256), np.uint8), parts_map(level, 256, dilate=0) > 0
    cv2.fillPoly(outline, [np.round(level.mesh[OVAL] * 16).astype(np.int32)], 1, shift=4)
    near = parts_map(level, 256, dilation=dict.fromkeys((1, 2, 4, 8), masks.LEAST)) > 0
    depth = cv2.distanceTransform(outline, cv2.DIST_L2, 5)
    assert mask[parts].all() and (depth[mask & ~near] > masks.MARGIN * level.eye_distance / 90).all()
    arms, _ = face_mask(image, face, 256, glasses="on")
    assert (depth[arms] <= masks.MARGIN).any(), "the arms of glasses reach up to the outline"


def smiling(*lines: tuple[float, float], colour: int = 90) -> tuple[np.ndarray, np.ndarray, Face]:
    """(the crop of an even face with lines drawn outwards from the mask beside a corner of the mouth, from so far from it to
    so far; its mask; the face in it).
    """
    face = make_face()
    image = np.full((512, 512, 3), 170, np.uint8)
    crop, matrix = align(image, face)
    mask, level = face_mask(image, face, 256, glasses="off")[0], face.moved(matrix)
    corner = level.mesh[291]
    outward = np.array([1.0, -0.5]) / np.hypot(1.0, 0.5)
    steps = corner + np.arange(120)[:, None] * outward
    border = next(k for k, (x, y) in enumerate(np.rint(steps).astype(int)) if not mask[y, x])
    for begin, end in lines:
        ends = [tuple(int(v) for v in np.rint(steps[border] + at * outward)) for at in (begin, end)]
        cv2.line(crop, *ends, (colour,) * 3, 3, cv2.LINE_AA)
    return crop, mask, level


@pytest.mark.parametrize(
    ("lines", "colour", "gone"),
    [
        ([(-3, 9)], 90, True),
        ([(-3, 9)], 160, False),  # no crease but a shade
        ([(7, 11)], 90, False),  # begins too far off: a mole, another's scar
        ([], 90, False),
    ],
)
def test_a_crease_that_begins_at_the_mask_goes_with_it(lines, colour, gone) -> None:
    crop, mask, level = smiling(*lines, colour=colour)
    creased = masks.with_creases(mask, crop, level)
    assert (creased >= mask).all() and (creased > mask).any() == gone
    if gone:
        line = (crop[..., 0] < 120) & ~mask
        assert creased[line].mean() > 0.95 and (creased & ~mask).sum() < 4 * line.sum()


def test_skin_that_gets_darker_towards_a_side_has_no_crease() -> None:
    crop, mask, level = smiling()
    shade = np.linspace(1.2, 0.4, 256)[None, :, None]
    assert not (masks.with_creases(mask, (crop * shade).astype(np.uint8), level) & ~mask).any()


def test_creases_do_not_hang_on_what_is_under_the_mask() -> None:
    crop, mask, level = smiling((-3, 9))
    other = np.where(mask[..., None], np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8), crop)
    assert np.array_equal(masks.with_creases(mask, crop, level), masks.with_creases(mask, other, level))


@pytest.mark.parametrize("fill", [0, 255])
def test_a_mask_of_everything_or_nothing_has_no_creases(fill) -> None:
    crop, mask, level = smiling((-3, 9))
    all_or_none = np.full_like(mask, fill > 0)
    assert np.array_equal(masks.with_creases(all_or_none, np.full_like(crop, fill), level), all_or_none)


def test_parts_have_the_bits_that_the_data_contract_names() -> None:
    face = make_face()
    field = parts_map(face, 256)
    for bit, (x, y) in {1: (83, 62), 2: (83, 88), 4: (128, 123), 8: (128, 183)}.items():
        assert field[y, x] & bit
    assert PARTS == {"brows": 1, "eyes": 2, "nose": 4, "mouth": 8, "glasses": 16}
    glasses = np.zeros((256, 256), bool)
    glasses[5, 7] = True
    assert np.argwhere(parts_map(face, 256, glasses=glasses) & 16).tolist() == [[5, 7]]


def test_a_face_outside_the_picture_has_no_parts_in_it() -> None:
    assert not parts_map(make_face(centre=(2000, 2000)), 100).any()


def test_drawn_glasses_fit_the_face() -> None:
    face = make_face(roll=10)
    worn, frame = draw_glasses(face, 256), draw_glasses(face, 256, lenses=False)
    for eye in face.eyes:
        x, y = np.round(eye).astype(int)
        assert worn[y, x] and not frame[y, x]
    middle = face.eyes.mean(0)
    x, y = np.round(middle).astype(int)
    assert frame[y - 15 : y + 16, x - 4 : x + 5].any(), "a bridge"
    assert (worn | ~frame).all() and 0.01 < frame.mean() < 0.12
    rng = [draw_glasses(face, 256, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(rng[0], rng[1]) and not np.array_equal(rng[0], rng[2])


def test_temples_are_followed_from_the_hinge_to_the_ear_and_no_further() -> None:
    face = make_face(centre=(256, 256))
    wall = np.random.default_rng(0).normal((190, 150, 130), 2, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    assert not worn_temples(wall, face, 256).any(), "plain skin has none"
    hinge, bend = (182, 214), (150, 205)
    rim = [bend, (138, 216), (132, 250)]  # of the ear, as thin and as dark
    image = cv2.polylines(wall.copy(), [np.array([hinge, *rim])], False, (30, 25, 25), 4)
    crop = worn_temples(image, face, 512).astype(np.float32)
    found = cut(crop, cv2.invertAffineTransform(align_matrix(face, 512)), (512, 512)) > 0.5
    temple = cv2.line(np.zeros((512, 512), np.uint8), hinge, bend, 1, 3) > 0
    temple[:, 164:] = False  # what is nearer to the eye belongs to the frame
    assert found[temple].mean() > 0.9
    assert not found[:, :136].any() and not found[224:].any(), "the rim is not followed"
    assert not found[:, 180:].any(), "there is none on the other side"


def test_what_lies_beside_a_face_is_filled_from_what_is_there_and_not_from_skin() -> None:
    wall = np.repeat(np.linspace(60, 200, 256).astype(np.uint8)[:, None, None], 256, axis=1).repeat(3, axis=2)
    image, skin, beside = wall.copy(), np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    skin[:, :120], beside[80:110, 120:170] = True, True
    image[skin], image[beside] = (220, 60, 60), 10
    before = image.copy()
    changed = fill_beside(image, np.array([[1.0, 0, 0], [0, 1.0, 0]]), beside, skin)
    assert np.array_equal(image[~changed], before[~changed]) and changed.sum() < 1.5 * beside.sum()
    inside = cv2.erode(beside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert np.abs(image[inside].astype(int) - wall[inside]).max() < 25
    assert np.ptp(image[inside].astype(int), axis=1).max() <= 2, "nothing red"
    assert not fill_beside(image, np.eye(2, 3), np.zeros_like(beside), skin).any()


# ------------------------------------------------------------------------------------------------------------- models


def test_importing_is_light() -> None:
    heavy = ("torch", "tensorflow", "ai_edge_litert", "skimage")
    code = f"import sys, faceeraser.face.masks, faceeraser.face.finder; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_offline_the_error_says_what_is_missing_and_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="ERROR: no route to host\n", stdout="")
    monkeypatch.setattr(landmark_models.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FileNotFoundError) as caught:
        landmark_models.fetch(tmp_path)
    for part in (
        "face_landmark.tflite",
        str(tmp_path),
        "pip download",
        "mediapipe==0.10.21",
        "no route to host",
        "CACHE",
    ):
        assert part in str(caught.value)


def test_a_wheel_with_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    def download(command: list[str], **_: object) -> SimpleNamespace:
        with zipfile.ZipFile(Path(command[-1]) / "mediapipe.whl", "w") as wheel:
            for name, (where, _) in landmark_models.FILES.items():
                wheel.writestr(where + name, b"something else")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(landmark_models.subprocess, "run", download)
    with pytest.raises(ValueError, match="not the file that is pinned"):
        landmark_models.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return np.ascontiguousarray(pytest.importorskip("skimage.data").astronaut())


@pytest.mark.usefixtures("landmarks")
def test_the_astronaut_is_found_where_she_is(astronaut: np.ndarray) -> None:
    (face,) = find_faces(astronaut)
    assert face.score > 0.7
    # Read off an enlargement by eye: the pupils and the middle of the mouth.
    assert np.abs(face.eyes - [[203, 101], [247, 104]]).max() < 3
    assert np.abs(face.mesh[LIPS].mean(0) - [223, 146]).max() < 4


@pytest.mark.usefixtures("landmarks")
def test_landmarks_turn_and_mirror_with_the_picture(astronaut: np.ndarray) -> None:
    (face,) = find_faces(astronaut)
    (mirrored,) = find_faces(np.ascontiguousarray(astronaut[:, ::-1]))
    assert mirrored.yaw == pytest.approx(-face.yaw, abs=3)
    assert np.abs(mirrored.eyes[::-1] - [511, 0] - face.eyes * [-1, 1]).max() < 1.5
    turn = cv2.getRotationMatrix2D((225, 120), -25, 1.0)
    (turned,) = find_faces(cv2.warpAffine(astronaut, turn, (512, 512)))
    assert turned.roll == pytest.approx(face.roll + 25, abs=3)
    apart = np.linalg.norm(turned.mesh - face.moved(turn).mesh, axis=1).mean()
    assert apart < 0.06 * face.eye_distance


@pytest.mark.usefixtures("landmarks")
def test_a_small_face_in_a_large_picture_is_still_found(astronaut: np.ndarray) -> None:
    wide = np.full((900, 1600, 3), 90, np.uint8)
    small = cv2.resize(astronaut[:300, 70:370], (190, 190), interpolation=cv2.INTER_AREA)
    wide[560:750, 1200:1390] = small
    (face,) = find_faces(wide)
    assert 1200 < face.eyes[0, 0] < 1390 and 560 < face.eyes[0, 1] < 750
    assert find_faces(np.full((300, 400, 3), 128, np.uint8)) == []


@pytest.mark.usefixtures("landmarks")
def test_small_faces_are_found_beside_a_large_one(astronaut: np.ndarray) -> None:
    head = astronaut[:300, 75:375]
    sheet = np.zeros((1080, 1920, 3), np.uint8)
    sheet[40:1040, 100:1100] = cv2.resize(head, (1000, 1000))
    sheet[400:700, 1500:1800] = head
    large, small = find_faces(sheet)
    assert np.abs(large.eyes - np.array([[527, 377], [673, 387]])).max() < 12
    assert np.abs(small.eyes - np.array([[1628, 501], [1672, 504]])).max() < 5
    many = np.tile(cv2.resize(head, (200, 200), interpolation=cv2.INTER_AREA), (4, 6, 1))
    assert len(find_faces(many)) == 24


@pytest.mark.usefixtures("landmarks")
def test_in_a_video_what_has_not_changed_is_not_looked_at_again_and_who_comes_in_is_seen(
    astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, random = astronaut[:300, 75:375], np.random.default_rng(0)
    room = cv2.resize(random.integers(60, 180, (9, 16, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    room[300:900, 300:900] = cv2.resize(head, (600, 600))
    busy = room.copy()
    busy[400:700, 1500:1800] = head
    (speaker,) = find_faces(room)
    finder, looks, looked = shared(), list[int](), Looked()
    real = finder._look
    monkeypatch.setattr(finder, "_look", lambda *arguments: looks.append(1) or real(*arguments))

    def seen(image: np.ndarray, closer: int | None = None) -> tuple[bool, int]:
        noisy = np.clip(image.astype(np.int16) + random.integers(-4, 5, (1080, 1920, 1)), 0, 255).astype(np.uint8)
        looks.clear()
        detections = finder.detect(noisy, closer=closer, looked=looked, known=[speaker])
        return any(1500 < detection.box[0, 0] < detection.box[1, 0] < 1800 for detection in detections), len(looks)

    everywhere = 1 + 3 + 6  # the whole, turned, and its halves; more where there may be a smaller face
    there, cost = seen(room)
    assert not there and everywhere <= cost < everywhere + 18
    assert seen(room) == (False, 1), "noise is no change"
    talking = room.copy()
    (left, top), (right, bottom) = speaker.mesh.min(0).astype(int), speaker.mesh.max(0).astype(int)
    talking[(top + bottom) // 2 : bottom, left:right] //= 2
    assert seen(talking)[1] == 1, "nor is what a face that is known does"
    there, cost = seen(busy)
    assert there and 1 < cost < everywhere + 9
    assert seen(busy)[1] == 1
    assert seen(room[:, ::-1])[1] >= everywhere, "a cut"
    in_turn = [seen(busy, closer=2) for _ in range(16)]
    assert any(there for there, _ in in_turn) and max(cost for _, cost in in_turn) == 5, (
        "two places at a time, and two parts"
    )
    assert in_turn[-1][1] == 1, "in the end all has been looked at"


@pytest.mark.usefixtures("landmarks")
@pytest.mark.parametrize("times", [6, 12, 18, 22])
def test_where_something_small_may_be_a_face_is_looked_at_closer(
    times: int, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A face so many times smaller than the picture, in each of the quarters' corners where windows meet."""
    side = round(1920 / times * 2.1)  # the head with its surroundings
    head = cv2.resize(astronaut[:300, 75:375], (side, side), interpolation=cv2.INTER_AREA)
    looks, real = list[int](), shared()._look
    monkeypatch.setattr(shared(), "_look", lambda *arguments: looks.append(1) or real(*arguments))
    for x, y in ((0, 0), (960 - side // 2, 540 - side // 2), (480 - side // 2, 360 - side // 2), (1920 - side, 1080 - side)):
        room = np.full((1080, 1920, 3), 90, np.uint8)
        room[y : y + side, x : x + side] = head
        looks.clear()
        (face,) = find_faces(room)
        assert np.abs(face.mesh.mean(0) - [x + side / 2, y + 0.43 * side]).max() < 0.2 * side
        assert len(looks) < 10 + 9, "not half of the eighteen quarters"


@pytest.mark.usefixtures("landmarks")
@pytest.mark.parametrize("angle", [90, 110, 130, 150, 180, 200, 225, 250, 270, 315])
def test_a_turned_face_has_its_own_mesh_or_none(astronaut: np.ndarray, angle: int) -> None:
    """The mesh of the upright face, turned, is where the one that is found has to be."""
    head = cv2.resize(astronaut[:300, 75:375], (600, 600), interpolation=cv2.INTER_CUBIC)
    (upright,) = find_faces(head)
    turn = cv2.getRotationMatrix2D((300, 300), -angle, 1.0)
    (turned,) = find_faces(cv2.warpAffine(head, turn, (600, 600), borderMode=cv2.BORDER_REPLICATE))
    apart = np.linalg.norm(turned.mesh - upright.moved(turn).mesh, axis=1).mean()
    assert apart < 0.05 * upright.eye_distance


@pytest.mark.usefixtures("landmarks")
def test_a_mesh_that_is_not_where_the_detector_saw_the_face_is_refused(
    astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = shared()
    (seen,) = [detection for detection in finder.detect(astronaut) if detection.score > 0.7]
    assert finder.landmarks(astronaut, seen) is not None
    real = finder._meshed

    def elsewhere(image: np.ndarray, seen_there: Detection) -> Face | None:
        face = real(image, seen_there)
        return face and face.moved(np.array([[1.0, 0, 0.4 * face.eye_distance], [0, 1.0, 0]]))

    monkeypatch.setattr(finder, "_meshed", elsewhere)
    assert finder.landmarks(astronaut, seen) is None


@pytest.mark.usefixtures("landmarks")
def test_glasses_drawn_on_a_face_are_seen_and_segmented(astronaut: np.ndarray) -> None:
    large = cv2.resize(astronaut[30:230, 130:330], (600, 600), interpolation=cv2.INTER_CUBIC)
    (face,) = find_faces(large)
    assert glasses_score(large, face) < 0.5
    frame = draw_glasses(face, large.shape, np.random.default_rng(3), lenses=False)
    wearing = large.copy()
    wearing[frame] = (25, 20, 20)
    wearing = cv2.GaussianBlur(wearing, (0, 0), 1.0)
    assert glasses_score(wearing, face) > 0.5
    glasses = segment_glasses(wearing, face)
    assert glasses is not None
    near = cv2.dilate(frame.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert (glasses & near).sum() > 0.85 * glasses.sum(), "what is found is frame"
    assert (glasses & frame).sum() > 0.5 * frame.sum(), "most of the frame is found"


@pytest.mark.usefixtures("landmarks")
def test_a_temple_that_goes_on_beside_the_face_is_erased_from_a_photograph(astronaut: np.ndarray) -> None:
    large = cv2.resize(astronaut[30:230, 130:330], (600, 600), interpolation=cv2.INTER_CUBIC)
    (face,) = find_faces(large)
    wearing = large.copy()
    wearing[draw_glasses(face, large.shape, lenses=False)] = (25, 20, 20)
    hinge, edge = face.eyes[0] + 0.5 * (face.eyes[0] - face.eyes[1]), face.mesh[127]
    end = edge + 0.3 * (edge - hinge) / np.linalg.norm(edge - hinge) * face.eye_distance
    line = [tuple(map(int, np.round(point))) for point in (hinge, end)]
    cv2.line(wearing, *line, (25, 20, 20), 7)
    outline = cv2.fillPoly(np.zeros((600, 600), np.uint8), [np.round(face.mesh[OVAL]).astype(np.int32)], 1)
    outside = cv2.dilate(outline, np.ones((21, 21), np.uint8)) == 0
    beside = (cv2.line(np.zeros((600, 600), np.uint8), *line, 1, 5) > 0) & outside
    assert beside.sum() > 50
    erased = Eraser(glasses="on").photograph(wearing, [face])
    left = [np.abs(picture[beside].astype(int) - large[beside]).mean() for picture in (wearing, erased.image)]
    assert left[1] < 0.6 * left[0], "hair, not the temple"
    assert erased.mask[beside].mean() > 0.9 and np.array_equal(erased.image[~erased.mask], wearing[~erased.mask])


@pytest.mark.usefixtures("landmarks")
def test_yaw_is_positive_when_the_nose_points_to_the_right() -> None:
    photos = Path(os.environ.get("FACEERASER_PHOTOS") or Path(__file__).parents[2] / "shared" / "photos")
    files = sorted(photos.glob("f18_*.jpg"))[:30]
    if not files:
        pytest.skip(f"no photographs in {photos}; set FACEERASER_PHOTOS")
    yaws, noses = [], []
    for file in files:
        for face in find_faces(picture.read(file).image)[:1]:
            level = face.moved(align_matrix(face, 256)).mesh
            yaws.append(face.yaw)
            noses.append(level[1, 0] - (level[OVAL, 0].min() + level[OVAL, 0].max()) / 2)
    assert len(yaws) >= 28 and np.corrcoef(yaws, noses)[0, 1] > 0.8
