"""Training pairs: a numbered, endless stream that is the same for everyone, and not its own mirror image by default."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceeraser.model import pairs


@pytest.fixture(scope="module")
def stream(skin):
    return pairs.TrainingPairs(skin, 64, seed=3)


@settings(max_examples=20, deadline=None)
@given(k=st.integers(0, 10**7))
def test_pair_k_is_always_the_same_pair(skin, k):
    one, other = pairs.TrainingPairs(skin, 64, seed=3, limit=4), pairs.TrainingPairs(skin, 64, seed=3, limit=4)
    other[k + 1]  # asking for another one first changes nothing
    assert all(torch.equal(a, b) for a, b in zip(one[k], other[k], strict=True))


def test_another_seed_and_another_number_give_other_pairs(skin, stream):
    assert not torch.equal(stream[0][0], stream[1][0])
    assert not torch.equal(stream[0][0], pairs.TrainingPairs(skin, 64, seed=4)[0][0])


@settings(max_examples=20, deadline=None)
@given(k=st.integers(0, 10**6))
def test_shapes_ranges_and_a_hole_in_every_mask(stream, k):
    truth, mask, target, skin, sharp = stream[k]
    assert truth.shape == (3, 64, 64) and mask.shape == (1, 64, 64)
    assert truth.dtype == mask.dtype == torch.float32
    assert truth.min() >= 0 and truth.max() <= 1
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(target, mask) and torch.equal(skin, 1 - mask), "a blank face is skin, and all of it is known"
    assert sharp.item() == 0, "generated at 64 pixels, there are not 128 across a forehead"


@pytest.fixture(scope="module")
def with_faces(skin, tmp_path_factory):
    """Prepared skin with whole faces: a blank each, whose left half is marked as bare skin."""
    folder = tmp_path_factory.mktemp("faces") / "data"
    shutil.copytree(skin, folder)
    (folder / "faces" / "train").mkdir(parents=True, exist_ok=True)
    for blank in (folder / "blanks" / "train").glob("*.png"):
        alpha = np.zeros((64, 64), np.uint8)
        alpha[:, :32] = 255
        cv2.imwrite(str(folder / "faces" / "train" / blank.name), np.dstack([cv2.imread(str(blank)), alpha]))
    return folder


@settings(max_examples=20, deadline=None)
@given(k=st.integers(0, 10**6))
def test_of_a_whole_face_only_bare_skin_is_judged_or_copied(with_faces, k):
    truth, mask, target, skin, _ = pairs.TrainingPairs(with_faces, 64, seed=3, real=1.0)[k]
    assert truth.shape == (3, 64, 64) and mask.any()
    assert (target <= mask).all() and (skin + mask <= 1).all() and (target * skin).sum() == 0
    halves = [(target + skin)[..., :32].any(), (target + skin)[..., 32:].any()]
    assert sum(map(bool, halves)) <= 1, "the half that is not skin is neither, whichever way the face was turned"


def test_the_share_of_whole_faces_is_kept_and_none_is_refused(skin, with_faces):
    mixed = pairs.TrainingPairs(with_faces, 64, seed=3, real=0.3)
    share = np.mean([not torch.equal(t, m) for _, m, t, _, _ in (mixed[k] for k in range(200))])
    assert 0.2 < share < 0.4
    with pytest.raises(ValueError, match="0 photographs"):
        pairs.TrainingPairs(skin, 64, real=0.3)


def asymmetry(stream: pairs.TrainingPairs) -> float:
    return float(np.mean([(t - t.flip(1)).abs().mean() for t in (stream[k][0] for k in range(24))]))


def test_the_mirror_symmetry_is_broken_by_default_and_can_be_left_in(skin, stream):
    assert asymmetry(pairs.TrainingPairs(skin, 64, seed=3, symmetric=True)) < 1e-6
    assert asymmetry(stream) > 0.01


def test_the_two_halves_meet_without_a_seam(stream):
    steps = []
    for k in range(24):
        rows = (stream[k][0][:, 1:] - stream[k][0][:, :-1]).abs().mean((0, 2))
        steps.append(float(rows[31] / rows.mean()))
    assert np.median(steps) < 1.5, "the row at the seam jumps more than rows elsewhere"


def test_some_masks_hide_both_halves(stream):
    both = [torch.equal(m, m.flip(1)) for m in (stream[k][1] for k in range(60))]
    assert 15 < sum(both) < 45


def test_evaluation_pairs_are_the_fixed_list(skin):
    listed = pairs.evaluation_pairs(skin, "eval", 32)
    assert len(listed) == len((skin / "eval.csv").read_text().splitlines()) - 1
    assert all(p.truth.shape == (32, 32, 3) and p.truth.dtype == np.uint8 for p in listed)
    assert all(set(np.unique(p.mask)) == {0, 1} for p in listed)


def test_a_folder_that_was_not_prepared_is_refused_with_the_command_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"found no data.json.*python train/prepare.py"):
        pairs.TrainingPairs(tmp_path, 64)


def test_a_listed_picture_that_is_gone_is_named(skin, tmp_path):
    shutil.copytree(skin, tmp_path / "data")
    listed = pairs.evaluation_pairs(tmp_path / "data", "eval")
    gone = tmp_path / "data" / "blanks" / "val" / f"{listed[0].name}.png"
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        pairs.evaluation_pairs(tmp_path / "data", "eval")


def test_photographs_are_those_of_a_split_and_train_s_only_where_they_are_real(tmp_path):
    rows = ["file,split,kind", "a.jpg,val,real", "b.jpg,train,real", "c.jpg,train,synthetic", "d.jpg,val,synthetic"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    assert {path.name for path in pairs.photographs(tmp_path)} == {"a.jpg", "d.jpg"}
    assert {path.name for path in pairs.photographs(tmp_path, "train")} == {"b.jpg"}
    with pytest.raises(ValueError, match="split test"):
        pairs.photographs(tmp_path, "test")
