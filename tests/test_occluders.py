"""What hangs in front of a face stays: faceeraser/face/occluders.py, occlusion.py and what painting does at its edge."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from faceeraser.artifacts.painting import paint_by_plan
from faceeraser.face.occluders import FADES, SIDE, trimmed
from faceeraser.system import writing
from faceeraser.training import occlusion

WHOLE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def fringe() -> np.ndarray:
    """Something in front of the upper 60 of 128 rows, surely down to row 40, less and less below."""
    return np.repeat(np.interp(np.arange(SIDE), [40, 80], [1.0, 0.0])[:, None], SIDE, 1).astype(np.float32)


def mask_of(size: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[size // 8 : -size // 8, size // 4 : -size // 4] = True
    return mask


@pytest.mark.parametrize("size", [128, 256, 500])
def test_a_mask_loses_what_is_in_front_and_its_edge_is_soft(size) -> None:
    mask = mask_of(size)
    bare, share = trimmed(mask, fringe())
    column = share[: -size // 8, size // 2]
    assert bare.dtype == bool and not (bare & ~mask).any()
    assert not bare[: int(0.45 * size)].any() and bare[size // 2 : -size // 8 - 1, size // 2].all()
    beside = (cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) < FADES * size) & ~mask
    assert (share[bare] == 1).all() and (share[~mask & ~beside] == 0).all() and (share[: int(0.3 * size)] == 0).all()
    fading = column[(column > 0) & (column < 1)]
    assert len(fading) >= size // 12 and (np.diff(fading) > 0).all()


def test_a_face_without_anything_in_front_keeps_its_mask() -> None:
    mask = mask_of(256)
    bare, share = trimmed(mask, np.zeros((SIDE, SIDE), np.float32))
    assert np.array_equal(bare, mask) and (share[mask] == 1).all()
    below = share[-33:, 128]  # the mask's last row, and what is below it
    assert below[0] == 1 and below[1:3] == pytest.approx([2 / 3, 1 / 3], abs=0.01) and not below[3:].any()


def test_a_mark_inside_the_mask_is_erased_and_what_reaches_in_stays() -> None:
    front = np.zeros((SIDE, SIDE), np.float32)
    front[60:66, 62:68] = 1.0  # a highlight on the nose
    front[80:84, 20:60] = 1.0  # a straw, from beside the mouth
    bare, share = trimmed(mask_of(256), front)
    assert bare[110:140, 110:150].all() and (share[110:140, 110:150] == 1).all()
    assert not bare[162:166, 70:110].any() and not share[162:166, 70:110].any()


def test_a_face_that_is_hidden_wholly_has_no_mask_left() -> None:
    bare, share = trimmed(mask_of(256), np.ones((SIDE, SIDE), np.float32))
    assert not bare.any() and not share.any()


def plan() -> dict[str, np.ndarray]:
    return {
        "skin": np.ones((128, 128, 1), np.float32),
        "shading": np.full((64, 64, 3), 0.75, np.float32),
        "sources": np.full(289, 800.0, np.float32),
    }


def test_what_is_painted_fades_out_over_what_is_in_front_and_leaves_the_rest() -> None:
    photo = np.full((256, 256, 3), 40, np.uint8)  # dark hair everywhere; skin is painted at 191
    mask, share = trimmed(mask_of(256), fringe())
    painted, there = paint_by_plan(photo.copy(), mask, photo, plan(), WHOLE, share)
    column = painted[:, 128, 0].astype(int)
    assert np.array_equal(painted[~there], photo[~there]) and (share[there] > 0).all()
    assert column[70] == 40 and column[130] == 191
    rising = column[84:122]
    assert (np.diff(rising) >= 0).all() and np.diff(rising).max() < 25, "no step from hair to skin"
    hard, _ = paint_by_plan(photo.copy(), mask, photo, plan(), WHOLE)
    assert np.diff(hard[84:122, 128, 0].astype(int)).max() > 140, "without the share there is one"


def test_only_hair_that_hangs_together_with_the_head_counts() -> None:
    hair = np.zeros((256, 256), np.float32)
    hair[:90, 60:200] = 0.9  # a fringe that reaches down over the brows
    hair[180:220, 100:160] = 0.9  # a beard
    hair[110:120, 0:60] = 0.9  # a lock from the side
    kept = occlusion.hair_of_the_head(hair) > 0.5
    assert kept[85, 130] and kept[115, 40] and not kept[200, 130]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Two made faces with hair maps, as train/prepare.py --hair leaves them."""
    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    (folder / "data.json").write_text('{"size": 64, "name": "made", "source": "made", "sha256": "0"}')
    for split in ("train", "val"):
        (folder / "hair" / split).mkdir(parents=True)
        (folder / "masks" / split).mkdir(parents=True)
        for k in range(2):
            face = np.full((64, 64, 4), 180, np.uint8)
            face[..., :3] = face[..., :3] + rng.integers(-9, 9, (64, 64, 1))
            face[..., 3] = 0
            face[: 18 + 4 * k] = (20, 30, 40, 255)  # hair
            parts = np.zeros((64, 64), np.uint8)
            parts[16:50, 12:52] = 15
            cv2.imwrite(str(folder / "hair" / split / f"{k}.png"), face)
            cv2.imwrite(str(folder / "masks" / split / f"{k}.png"), parts)
    return folder


def test_pairs_are_numbered_and_what_is_drawn_is_in_front(prepared) -> None:
    data, bare = occlusion.OcclusionPairs(prepared, drawn=1.0), occlusion.OcclusionPairs(prepared, drawn=0.0)
    more = 0
    for k in range(12):
        picture, front, weight = data[k]
        assert picture.shape == (3, SIDE, SIDE) and front.shape == weight.shape == (1, SIDE, SIDE)
        assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in (picture, front))
        assert all(torch.equal(a, b) for a, b in zip(data[k], (picture, front, weight), strict=True))
        more += float(front.mean()) > max(float(bare[n][1].mean()) for n in range(8))
    assert more >= 6


def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(prepared, tmp_path) -> None:
    data = occlusion.OcclusionPairs(prepared)
    options = {"steps": 4, "batch": 2, "lr": 1e-3, "seed": 0}
    whole, _ = occlusion.train(data, tmp_path / "whole", **options)
    (tmp_path / "cut").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occlusion, "SAVE_EVERY", 2)
        stopped = occlusion.write_state

        def stop(path: Path, state: dict) -> None:
            stopped(path, state)
            raise KeyboardInterrupt

        patch.setattr(occlusion, "write_state", stop)
        with pytest.raises(KeyboardInterrupt):
            occlusion.train(data, tmp_path / "cut", **options)
    resumed, _ = occlusion.train(data, tmp_path / "cut", **options, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_weights_are_stored_and_found_again_and_damage_is_one_line(prepared, tmp_path) -> None:
    torch.manual_seed(0)
    network = occlusion.OcclusionNet().half().float().eval()
    with writing.whole_folder(tmp_path / "kept") as folder:
        occlusion.save(network, folder)
    again, picture = occlusion.load(tmp_path / "kept"), torch.rand(1, 3, SIDE, SIDE)
    assert torch.equal(network(picture), again(picture))
    with pytest.raises(ValueError, match="make it with train/occlusion"):
        occlusion.load(tmp_path)
    (tmp_path / "kept" / occlusion.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not the weights of this network"):
        occlusion.load(tmp_path / "kept")
