"""Landmarks of one's own tracker: every layout means the same face, and a file that cannot be meant is one line."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceeraser import cli
from faceeraser.face import finder, landmarks, video
from faceeraser.face.crops import align_matrix
from faceeraser.face.finder import find_faces
from faceeraser.face.mesh import RIGHT_BROW, Face, transform
from faceeraser.face.parts import PARTS, parts_map
from faceeraser.face.profiles import FEATURES

RIGHT, LEFT = (203, 101), (247, 104)  # the astronaut's pupils, x and y, read off by eye


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def face(landmarks: None, astronaut: np.ndarray) -> Face:
    return find_faces(astronaut)[0]


def points_of(layout: str, face: Face) -> tuple[list[list[float]], dict[str, list[int]] | None]:
    """What a tracker of this layout would give for a face, and the parts that its file names."""
    if layout == "parts":
        parts, points = {}, []
        for name, indices in landmarks.OUTLINES.items():
            outline = face.mesh[indices][::-1]  # the other way around, and begun somewhere else
            parts[name] = list(range(len(points), len(points) + len(outline)))
            points += np.roll(outline, 3, axis=0).tolist()
        return points, parts
    count, taken, meant = landmarks.LAYOUTS[layout]
    points = np.full((count, 2), -7.0)  # what is not taken may be anything
    points[list(taken)] = face.mesh[list(meant)]
    return points.tolist(), None


def file_of(path: Path, layout: str, frames: list[list[Face]]) -> Path:
    annotated = [[points_of(layout, face) for face in frame] for frame in frames]
    content = {
        "format": "faceeraser-landmarks",
        "version": 1,
        "layout": layout,
        "frames": [{"faces": [points for points, _ in frame]} for frame in annotated],
    }
    parts = [parts for frame in annotated for _, parts in frame if parts]
    path.write_text(json.dumps({**content, **({"parts": parts[0]} if parts else {})}))
    return path


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [*landmarks.LAYOUTS, "parts"])
def test_every_layout_means_the_same_face(layout, face, tmp_path):
    (read_face,) = landmarks.read(file_of(tmp_path / "a.json", layout, [[face]]))[0]
    if layout in landmarks.LAYOUTS:
        given = list(landmarks.LAYOUTS[layout][2])
        assert np.abs(read_face.mesh[given] - face.mesh[given]).max() < 0.01, "what was given is where it was given"
    assert np.abs(read_face.eyes - face.eyes).max() < 0.03 * face.eye_distance
    ours, theirs = (parts_map(shown, (512, 512)) for shown in (read_face, face))
    for bit in (PARTS[name] for name in FEATURES):
        assert overlap((ours & bit) > 0, (theirs & bit) > 0) > 0.9, bit
    there = transform(
        align_matrix(read_face, 256),
        transform(cv2.invertAffineTransform(align_matrix(face, 256)), np.array([[0.0, 0], [255, 0], [0, 255], [255, 255]])),
    )
    assert np.abs(there - [[0, 0], [255, 0], [0, 255], [255, 255]]).max() < 15, "nearly the same crop"


def test_the_layouts_name_what_they_say():
    """Against the figures of their makers: in iBUG's 68 points the right eye is 36 to 41, in InsightFace's 106 its eight
    around the pupil are 33 to 42, and so on.
    """
    ibug = {
        range(0, 17): "oval",
        range(17, 22): "right_brow",
        range(22, 27): "left_brow",
        range(36, 42): "right_eye",
        range(42, 48): "left_eye",
        range(48, 60): "mouth",
    }
    insight = {
        range(0, 33): "oval",
        range(33, 43): "right_eye",
        range(43, 52): "right_brow",
        range(52, 72): "mouth",
        range(87, 97): "left_eye",
        range(97, 106): "left_brow",
    }
    for layout, groups in (("ibug-68", ibug), ("insightface-106", insight)):
        _, taken, meant = landmarks.LAYOUTS[layout]
        assert len(taken) == len(meant) == len(set(taken)) == len(set(meant))
        for numbers, part in groups.items():
            ours = [mesh for point, mesh in zip(taken, meant, strict=True) if point in numbers]
            assert ours and set(ours) <= set(landmarks.OUTLINES[part]), (layout, part)
    noses = {
        layout: [p for p in landmarks.LAYOUTS[layout][1] if p in r]
        for layout, r in (("ibug-68", range(27, 36)), ("insightface-106", range(72, 87)))
    }
    assert [len(nose) for nose in noses.values()] == [9, 9]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 4), st.floats(-180, 180), st.sampled_from(["ibug-68", "parts"]))
def test_a_face_may_be_of_any_size_and_turned_any_way(scale, turn, layout):
    mean = Face((90 * landmarks._mean_face() + 300).astype(np.float32))
    matrix = cv2.getRotationMatrix2D((300, 300), turn, scale)
    meant = mean.moved(matrix)
    points, parts = points_of(layout, meant)
    read_face = landmarks._face(np.array(points), layout, parts or {})
    assert np.abs(read_face.mesh - meant.mesh).max() < 0.06 * meant.eye_distance


def test_what_is_not_given_moves_with_its_neighbours():
    """Eyes alone level and scale the face; a mouth that is given lower than usual takes the chin along, not the brows."""
    mean = Face((90 * landmarks._mean_face() + 300).astype(np.float32))
    points, parts = points_of("parts", mean)
    assert parts is not None
    eyes = landmarks._face(np.array(points), "parts", {name: parts[name] for name in ("right_eye", "left_eye")})
    assert np.abs(eyes.mesh - mean.mesh).max() < 0.06 * mean.eye_distance
    lower = np.array(points)
    lower[parts["mouth"], 1] += 20
    known = {name: parts[name] for name in ("right_eye", "left_eye", "mouth")}
    opened = landmarks._face(lower, "parts", known).mesh - landmarks._face(np.array(points), "parts", known).mesh
    assert opened[152, 1] > 12 and np.abs(opened[RIGHT_BROW]).max() < 6


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_photograph_is_erased_by_landmarks_of_ones_own(face, astronaut, tmp_path, monkeypatch):
    """No model for landmarks is needed then."""
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    file_of(tmp_path / "a.json", "insightface-106", [[face]])
    monkeypatch.setattr(finder, "shared", lambda: pytest.fail("the landmark models were loaded"))
    assert cli.main(["erase", str(tmp_path / "a.png"), "--landmarks", str(tmp_path / "a.json")]) == 0
    erased = np.array(Image.open(tmp_path / "a-erased.png"))
    changed = (erased != astronaut).any(2)
    assert changed[RIGHT[1], RIGHT[0]] and changed[LEFT[1], LEFT[0]] and 0.01 < changed.mean() < 0.1


def test_a_video_has_landmarks_for_each_frame(face, astronaut, tmp_path, capsys, monkeypatch):
    small = np.array([[0.6, 0, -40], [0, 0.6, -10]])
    frames, faces = [], []
    for shift in (0, 12, 24, 36):
        matrix = small + np.array([[0, 0, shift], [0, 0, 0]])
        frames.append(cv2.warpAffine(astronaut, matrix, (240, 200)))
        faces.append([face.moved(matrix)])
    faces[2] = []
    with video.writing(tmp_path / "a.mkv", 25.0) as write:
        for frame in frames:
            write(frame)
    monkeypatch.setattr(finder, "shared", lambda: pytest.fail("the landmark models were loaded"))
    arguments = ["erase", str(tmp_path / "a.mkv"), "-o", str(tmp_path / "out.mkv"), "--landmarks", str(tmp_path / "a.json")]
    file_of(tmp_path / "a.json", "ibug-68", faces)
    assert cli.main(arguments) == 0
    assert "1 face in 3 of 4 frames, " in capsys.readouterr().out
    written = [frame.image for frame in video.Clip(tmp_path / "out.mkv")]
    for before, after, known in zip(frames, written, faces, strict=True):
        changed = (before != after).any(2)
        assert changed.any() == bool(known)
        if known:
            x, y = known[0].eyes.mean(0).round().astype(int)
            assert changed[y, x]
    for count, expected in ((3, "landmarks of 3 frames, and the video goes on"), (5, "landmarks of 5 frames, ")):
        file_of(tmp_path / "a.json", "ibug-68", [*faces, *faces][:count])
        assert cli.main([*arguments, "--overwrite"]) == 2
        assert expected in capsys.readouterr().err
    assert len(list(video.Clip(tmp_path / "out.mkv"))) == 4 and len(list(tmp_path.iterdir())) == 3, "nothing half-written"


def test_where_landmarks_cannot_belong(face, astronaut, tmp_path, capsys):
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    file_of(tmp_path / "two.json", "ibug-68", [[face], [face]])
    for arguments, expected in (
        ([tmp_path / "a.png", "--landmarks", tmp_path / "two.json"], "landmarks of 2 frames; expected those of 1"),
        ([tmp_path, "--landmarks", tmp_path / "two.json"], "is for a single photograph or video"),
        (["--camera", "0", "--landmarks", tmp_path / "two.json"], "--landmarks is for files"),
    ):
        assert cli.main(["erase", *map(str, arguments)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line]
        assert expected in line
    file_of(tmp_path / "none.json", "ibug-68", [[]])
    assert cli.main(["erase", str(tmp_path / "a.png"), "--landmarks", str(tmp_path / "none.json")]) == 2
    assert "no face found" in capsys.readouterr().err and not (tmp_path / "a-erased.png").exists()


# --- files that cannot be meant --------------------------------------------------------------------------------------

GOOD = {"format": "faceeraser-landmarks", "version": 1, "layout": "ibug-68", "frames": [{"faces": []}]}
EYES = {"right_eye": [0, 1, 2], "left_eye": [3, 4, 5]}
SIX = [[0, 0], [1, 0], [1, 1], [5, 0], [6, 0], [6, 1]]


def test_the_shortest_good_file_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    assert len(landmarks.read(tmp_path / "a.json")) == 1
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "layout": "parts", "parts": EYES, "frames": [{"faces": [SIX]}]}))
    assert len(landmarks.read(tmp_path / "a.json")[0]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this is not JSON"),
        (b'{"format": "faceeraser-landma', "this is not JSON"),
        (b"\xff\xfe\x00", "this is not JSON"),
        ([], 'expected "format"'),
        ({**GOOD, "format": "other"}, 'expected "format"'),
        ({**GOOD, "version": 2}, "is version 2; this program reads 1"),
        ({**GOOD, "layout": "dlib"}, "found layout 'dlib'; expected one of mediapipe-468"),
        ({**GOOD, "layout": ["ibug-68"]}, "found layout"),
        ({**GOOD, "layout": "parts"}, 'expected it with "parts"'),
        ({**GOOD, "parts": EYES}, 'expected it without "parts"'),
        ({**GOOD, "layout": "parts", "parts": {"mouth": [0, 1, 2]}}, "right_eye and left_eye at least"),
        ({**GOOD, "layout": "parts", "parts": {**EYES, "ear": [0, 1, 2]}}, "found part 'ear'; expected some of"),
        ({**GOOD, "layout": "parts", "parts": {**EYES, "mouth": [0, 1]}}, "part mouth: expected the indices"),
        ({**GOOD, "layout": "parts", "parts": {**EYES, "mouth": [0, 1, -1]}}, "part mouth: expected the indices"),
        ({**GOOD, "layout": "parts", "parts": {**EYES, "mouth": "012"}}, "part mouth: expected the indices"),
        ({**GOOD, "layout": "parts", "parts": EYES, "frames": [{"faces": [SIX[:5]]}]}, "its parts name point 5"),
        ({**GOOD, "frames": []}, 'expected "frames"'),
        ({**GOOD, "frames": 3}, 'expected "frames"'),
        ({**GOOD, "frames": [[]]}, 'frame 0: expected {"faces":'),
        ({**GOOD, "frames": [{"faces": []}, {"faces": 1}]}, 'frame 1: expected {"faces":'),
        ({**GOOD, "frames": [{"faces": [[[1, 2]] * 67]}]}, "frame 0, face 0: found 67 points; expected the layout's 68"),
        ({**GOOD, "frames": [{"faces": [[[1, 2, 3]] * 68]}]}, "expected a list of points [x, y]"),
        ({**GOOD, "frames": [{"faces": [[[1, "x"]] * 68]}]}, "expected a list of points [x, y]"),
        ({**GOOD, "frames": [{"faces": [[[1, 2]] * 67 + [[1]]]}]}, "expected a list of points [x, y]"),
        ({**GOOD, "frames": [{"faces": [[[1, None]] * 68]}]}, "found a point that is not a number"),
        ({**GOOD, "frames": [{"faces": [[[1, 1e9]] * 68]}]}, "far outside any picture"),
        ({**GOOD, "frames": [{"faces": [[[1, 2]] * 68]}]}, "all its points are in one place"),
    ],
)
def test_a_damaged_file_is_one_line(content, message, tmp_path, capsys):
    own = tmp_path / "own.json"
    own.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    assert cli.main(["erase", str(tmp_path / "a.png"), "--landmarks", str(own)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"faceeraser: {own}: ") and message in line


def test_a_file_that_is_not_there(tmp_path, capsys):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    assert cli.main(["erase", str(tmp_path / "a.png"), "--landmarks", str(tmp_path / "gone.json")]) == 2
    assert "gone.json: cannot be opened" in capsys.readouterr().err


def test_the_documents_examples_are_what_the_program_reads(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "landmarks.md").read_text()
    _, schema, example = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.S))
    properties = schema["properties"]
    assert properties["layout"]["enum"] == [*landmarks.LAYOUTS, "parts"]
    assert properties["parts"]["propertyNames"]["enum"] == list(landmarks.OUTLINES)
    assert (properties["format"]["const"], properties["version"]["const"]) == (landmarks.FORMAT, landmarks.VERSION)
    (tmp_path / "a.json").write_text(json.dumps(example))
    (face,) = landmarks.read(tmp_path / "a.json")[0]
    assert np.abs(face.eyes - [RIGHT, LEFT]).max() < 4
