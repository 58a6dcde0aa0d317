"""model/planner.py and painting.py: a network that plans; its plan painted in torch, in a file and on a photograph."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import script
from jsonschema import Draft202012Validator
from torch import nn

from faceeraser import erasing
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import SCHEMA_FILE, read_card
from faceeraser.artifacts.painting import Held, paint_by_plan
from faceeraser.conversion import convert, gate, mil_program
from faceeraser.conversion.coreml import CoreML, evaluator
from faceeraser.conversion.onnx import ONNX
from faceeraser.conversion.tflite import TFLite
from faceeraser.erasing import Eraser
from faceeraser.face.mesh import Face
from faceeraser.model import checkpoint, paint, quant
from faceeraser.model.config import Config
from faceeraser.model.networks import cost_of
from faceeraser.model.planner import PatchEraser
from faceeraser.system import writing
from faceeraser.training import channels, fit

SIZE = 256
CARD = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
WHOLE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def lively(resolution: int = SIZE, width: int = 8, seed: int = 0) -> PatchEraser:
    """A network whose heads say something: skin here and there, shading off the membrane."""
    torch.manual_seed(seed)
    network = PatchEraser(Config.of("mobile", model="patches", resolution=resolution), width)
    nn.init.normal_(network.body.skin.conv.weight, std=0.5)
    nn.init.normal_(network.body.shading.conv.weight, std=0.2)
    network.body.skin.get_submodule("conv").bias.data.fill_(1.0)
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 128, 128), torch.zeros(4, 1, 128, 128))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> PatchEraser:
    return lively()


@pytest.fixture(scope="module")
def pictures() -> list[gate.Picture]:
    return gate.gate_pictures(SIZE)


def tensors(picture: gate.Picture) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(picture.image).permute(2, 0, 1)[None], torch.from_numpy(picture.mask)[None, None]


def saved(network: PatchEraser, folder: Path) -> Path:
    with writing.whole_folder(folder) as partly:
        checkpoint.save(partly, network, stage="test", options={"seed": 0}, metrics={})
    return folder


@pytest.mark.parametrize("side", [128, 256, 512])
def test_it_paints_any_multiple_of_128_and_always_looks_at_128(network, side) -> None:
    image, mask = torch.rand(2, 3, side, side), torch.zeros(2, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    with torch.no_grad():
        out = network(image, mask)
    assert {k: tuple(v.shape[1:]) for k, v in out.items()} == {
        "logits": (1, 64, 64),
        "skin": (1, 128, 128),
        "membrane": (3, 64, 64),
        "lacking": (3, 32, 32),
        "shading": (3, 64, 64),
        "sources": (289,),
        "flow": (2, side, side),
        "refined": (3, side, side),
        "erased": (3, side, side),
    }
    assert torch.equal(out["erased"][mask.expand_as(image) == 0], image[mask.expand_as(image) == 0])
    assert float(out["skin"].min()) >= 0 and float(out["refined"].min()) >= 0 and float(out["refined"].max()) <= 1
    whole = out["sources"]
    assert torch.equal(whole, whole.round()) and float(whole.min()) >= 0 and float(whole.max()) <= 840


def test_nothing_of_the_hole_reaches_an_output(network, pictures) -> None:
    for k, picture in enumerate(pictures[:3]):
        image, mask = tensors(picture)
        other = torch.where(mask > 0.5, torch.rand(image.shape, generator=torch.Generator().manual_seed(k)), image)
        with torch.no_grad():
            one, two = network(image, mask), network(other, mask)
        assert not torch.equal(image, other) and all(torch.equal(one[name], two[name]) for name in one)


def test_the_flow_is_where_the_nearest_window_copies_from_and_constant_in_it(network, pictures) -> None:
    with torch.no_grad():
        out = network(*tensors(pictures[0]))
    flow, sources = out["flow"][0], out["sources"][0].long().reshape(17, 17)
    assert torch.equal(flow, flow.round())
    for row, column in ((3, 5), (8, 8), (12, 2)):  # the corner at (16 column, 16 row)
        y, x = divmod(int(sources[row, column]), 29)
        moved = torch.tensor([8.0 * (x + 2) - 16 * column, 8.0 * (y + 2) - 16 * row])
        there = flow[:, 16 * row - 8 : 16 * row + 8, 16 * column - 8 : 16 * column + 8]
        assert torch.equal(there, moved[:, None, None].expand_as(there))


def test_a_given_plan_is_followed(network, pictures) -> None:
    image, mask = tensors(pictures[0])
    with torch.no_grad():
        own = network(image, mask)
        plan = {name: own[name] for name in network.PLAN}
        assert torch.equal(network(image, mask, plan=plan)["erased"], own["erased"])
        darker = network(image, mask, plan={**plan, "shading": plan["shading"] - 0.1})["refined"]
    assert torch.allclose(darker, (own["refined"] - 0.1).clamp(min=0), atol=0.11) and float(darker.mean()) < float(
        own["refined"].mean()
    )
    assert network.agreement(plan, plan, image, mask, 1.0) == {"sources": 1.0, "skin": 1.0, "shading": 1.0}
    other = plan["sources"].clone()
    other[0, 7 * 17 + 5] += 1
    agreement = network.agreement({**plan, "sources": other}, plan, image, mask, 1.0)
    assert agreement["skin"] == agreement["shading"] == 1.0 and 0.95 < agreement["sources"] < 1.0
    agreement = network.agreement({**plan, "shading": plan["shading"] + 0.01}, plan, image, mask, 1.0)
    assert agreement["shading"] == 0.0


def test_it_learns_what_is_skin_and_what_the_membrane_lacks() -> None:
    """A few steps on one made face: hair above, skin below, brighter in the middle than a membrane of its rim can be."""
    torch.manual_seed(0)
    network = PatchEraser(Config.of("mobile", model="patches"), 8).train()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    truth = (0.6 + 0.2 * torch.exp(-4 * (x**2 + y**2))).expand(2, 3, 128, 128).clone()
    truth[:, :, :32] = 0.1
    mask, skin = torch.zeros(2, 1, 128, 128), torch.ones(2, 1, 128, 128)
    mask[..., 48:96, 32:96] = 1
    skin[..., :32, :], skin[mask > 0] = 0, 0
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        terms = network.own_terms(network(truth, mask), truth, mask, skin, None)
        optimizer.zero_grad()
        (total := sum(terms.values())).backward()
        optimizer.step()
        losses.append(total.item())
    with torch.no_grad():
        out = network(truth, mask)
    assert losses[-1] < 0.4 * losses[0]
    assert float(out["skin"][..., 4:28, :].mean()) < 0.5 * float(out["skin"][..., 104:, :].mean())
    middle = (slice(None), slice(None), slice(32, 40), slice(28, 36))
    lacking = (paint.enlarged(truth, 64) - out["membrane"])[middle].abs().mean()
    assert float((paint.enlarged(truth, 64) - out["shading"])[middle].abs().mean()) < 0.6 * float(lacking)


def test_where_no_truth_is_known_a_shading_is_taught_that_does_not_hang_on_the_truth() -> None:
    network, truth, mask = lively(), torch.rand(2, 3, 128, 128), torch.zeros(2, 1, 128, 128)
    mask[..., 40:90, 30:100] = 1
    outputs, unknown = network(truth, mask), torch.zeros_like(mask)

    def taught(truth: torch.Tensor, where: torch.Tensor | None) -> torch.Tensor:
        return network.own_terms(outputs, truth, mask, 1 - mask, where)["taught"]

    assert taught(truth, None) == 0.0 and taught(truth, unknown) > 0.01
    assert taught(truth * (1 - mask), unknown) == taught(truth, unknown)
    network.middle = lambda seen, hidden, skin: outputs["shading"].detach()
    assert taught(truth, unknown) < 1e-6


def test_what_is_skin_is_not_blurred_for_the_sake_of_the_shading_that_is_taught() -> None:
    network, truth, mask = lively(), torch.rand(1, 3, 128, 128), torch.zeros(1, 1, 128, 128)
    mask[..., 40:90, 30:100] = 1
    terms = network.own_terms(network(truth, mask), truth, mask, 1 - mask, torch.zeros_like(mask))
    terms["taught"].backward()
    assert float(network.body.shading.conv.weight.grad.abs().max()) > 0 and network.body.skin.conv.weight.grad is None


def test_its_channels_are_pruned_and_its_heads_are_kept() -> None:
    network = lively(width=16)
    before = {name: parameter.numel() for name, parameter in network.named_parameters()}
    for _ in channels.prune_steps(network, 0.5):
        pass
    left = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sum(left.values()) < 0.5 * sum(before.values())
    with torch.no_grad():
        out = network.eval()(torch.rand(1, 3, 128, 128), torch.ones(1, 1, 128, 128))
    assert out["logits"].shape == (1, 1, 64, 64) and out["shading"].shape == (1, 3, 64, 64)


def test_a_network_that_plans_is_trained_for_its_own_terms_and_those_that_are_asked_for() -> None:
    train = script("train/train.py")

    def recipe(*flags: str) -> fit.Recipe:
        return train.recipe_of(train.build_parser().parse_args(["data", "target", "--phase", "inpaint", *flags]))

    assert not recipe("--model", "patches").looks_at_pictures()
    asked = recipe("--model", "patches", "--l1", "0.5")
    assert asked.looks_at_pictures() and (asked.l1, asked.clone, asked.adversarial) == (0.5, 0.0, 0.0)
    assert recipe().looks_at_pictures() and recipe().l1 == fit.Recipe.l1


def test_training_that_looks_at_no_picture_learns_from_the_same_numbers(network) -> None:
    truth, mask = torch.rand(1, 3, 128, 128), (torch.rand(1, 1, 128, 128) > 0.7).float()
    with torch.no_grad():
        painted, unpainted = network(truth, mask), network.unpainted(truth, mask)
    assert "refined" not in unpainted and all(torch.equal(painted[name], unpainted[name]) for name in unpainted)


# --- painted elsewhere ------------------------------------------------------------------------------------------------


def test_a_crop_painted_on_its_own_grid_is_what_the_network_paints(network, pictures) -> None:
    """In numpy, beyond the fading rim and the smoothing of what is enlarged; the texture is the same to the pixel."""
    picture = pictures[0]
    crop, hole = np.rint(picture.image * 255).astype(np.uint8), picture.mask > 0
    plan = network.plan_of(crop, hole)
    painted, there = paint_by_plan(crop.copy(), hole, crop, plan, WHOLE)
    assert np.array_equal(there, hole) and np.array_equal(painted[~hole], crop[~hole])
    with torch.no_grad():
        image, mask = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255, torch.from_numpy(hole)[None, None].float()
        expected = network(image, mask)["erased"][0].permute(1, 2, 0).numpy() * 255
    deep = cv2.erode(hole.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    apart = painted[deep].astype(float) - expected[deep]
    assert np.median(np.abs(apart)) < 2 and np.abs(apart).mean() < 3
    flat = {**plan, "shading": np.full_like(plan["shading"], 0.5)}
    grain = paint_by_plan(crop.copy(), hole, crop, flat, WHOLE)[0][deep].astype(float).mean(-1)
    with torch.no_grad():
        same = network(image, mask, plan=gate.tensors_of(flat))["refined"][0].permute(1, 2, 0).numpy()[deep].mean(-1) * 255
    assert np.corrcoef(grain, same)[0, 1] > 0.95


@pytest.mark.parametrize("scale, roll", [(0.4, 0.0), (1.0, 10.0), (3.0, -25.0)])
def test_a_photograph_is_painted_on_its_own_grid_and_nowhere_else(network, scale, roll) -> None:
    """Its grain is as fine as it was, however the crop lies in it; what is under the mask has no say."""
    rng = np.random.default_rng(0)
    side = round(SIZE * scale)
    photo = np.clip(150 + 5 * rng.standard_normal((side + 90, side + 120, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
    photo[..., 2] = photo[..., 2] // 2 + 40
    angle = np.deg2rad(roll)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    middle = np.array([photo.shape[1] / 2, photo.shape[0] / 2])
    matrix = np.hstack([turn, (np.full(2, (SIZE - 1) / 2) - turn @ middle)[:, None]])
    hole = np.zeros((SIZE, SIZE), bool)
    hole[90:170, 70:190] = True
    plan = network.plan_of(np.full((SIZE, SIZE, 3), 150, np.uint8), hole)
    plan["skin"] = np.where(hole, 0, 1).astype(np.float32).reshape(128, 2, 128, 2).min((1, 3))[..., None]
    crop = np.full((SIZE, SIZE, 3), 150, np.uint8)
    painted, there = paint_by_plan(photo.copy(), hole, crop, plan, matrix)
    assert there.any() and np.array_equal(painted[~there], photo[~there])
    assert there.sum() == pytest.approx(hole.sum() * scale**2, rel=0.08)
    inner = cv2.erode(there.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    luma = [p.astype(np.float32).mean(2) for p in (photo, painted)]
    grain = [(y - cv2.GaussianBlur(y, (0, 0), 1.0))[inner].std() for y in luma]
    assert grain[1] == pytest.approx(grain[0], rel=0.2), "no interpolation has taken of it"
    other = photo.copy()
    other[there] = 255 - other[there]
    assert np.array_equal(painted, paint_by_plan(other, hole, crop, plan, matrix)[0])


def test_where_a_face_comes_nearer_texture_moves_by_fractions_of_pixels(network) -> None:
    """Two frames, the second a little larger: what is painted in it, made smaller again, is what was painted before."""
    rng = np.random.default_rng(0)
    photo = np.clip(150 + 5 * cv2.GaussianBlur(rng.standard_normal((300, 300, 1)), (0, 0), 1.0) * 3, 0, 255)
    photo = photo[..., None].repeat(3, axis=2)
    nearer = np.array([[1.004, 0, -0.6], [0, 1.004, -0.6]])
    frames = [np.rint(photo).astype(np.uint8), np.rint(cv2.warpAffine(photo, nearer, (300, 300), flags=2)).astype(np.uint8)]
    whole = np.array([[1.0, 0, -22], [0, 1.0, -22]])
    matrices = [whole, whole @ np.linalg.inv(np.vstack([nearer, [0, 0, 1]]))]
    hole, crop = np.zeros((SIZE, SIZE), bool), np.full((SIZE, SIZE, 3), 150, np.uint8)
    hole[90:170, 70:190] = True
    plan = {
        **network.plan_of(crop, hole),
        "sources": rng.integers(0, 841, 289),
        "shading": np.full((64, 64, 3), 0.6, np.float32),
    }
    plan["skin"] = np.ones((128, 128, 1), np.float32)
    apart = {}
    for moving in (False, True):
        one, other = (
            paint_by_plan(f.copy(), hole, crop, plan, m, None, moving)[0] for f, m in zip(frames, matrices, strict=True)
        )
        back = cv2.warpAffine(other, nearer, (300, 300), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        apart[moving] = float(np.abs(back.astype(float) - one)[120:180, 100:200].mean())
    assert apart[True] < 0.7 * apart[False], apart
    still, same = (paint_by_plan(frames[0].copy(), hole, crop, plan, whole, None, moving)[0] for moving in (False, True))
    assert np.abs(still.astype(int) - same).max() <= 1, "whole pixels are whole pixels, but for what fractions would take"


def test_a_crop_outside_of_the_picture_and_an_empty_mask_paint_nothing(network) -> None:
    photo = np.full((64, 64, 3), 99, np.uint8)
    plan = network.plan_of(np.full((SIZE, SIZE, 3), 99, np.uint8), np.ones((SIZE, SIZE), bool))
    far = np.array([[1.0, 0, 9000], [0, 1.0, 9000]])
    for mask, matrix in ((np.ones((SIZE, SIZE), bool), far), (np.zeros((SIZE, SIZE), bool), WHOLE)):
        painted, there = paint_by_plan(photo.copy(), mask, photo, plan, matrix)
        assert not there.any() and np.array_equal(painted, photo)


def test_in_a_video_sources_and_shading_are_held_and_one_worker_paints_what_two_do(network, tmp_path) -> None:
    """A face that moves by a few pixels with a camera's noise on it: its texture moves along and does not jump."""
    source = saved(network, tmp_path / "net")
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(60, 200, (360, 360, 3), np.uint8), (0, 0), 3)
    shape = rng.random((468, 2)).astype(np.float32) * 160 + 90
    frames, landmarks = [], []
    for k in range(5):
        noise = rng.integers(-4, 5, scene.shape)
        frames.append((np.clip(np.roll(scene, (k, 2 * k), (0, 1)).astype(int) + noise, 0, 255).astype(np.uint8), 1 / 30))
        landmarks.append([Face(shape + np.float32([2 * k, k]))])
    results = {}
    for workers in (1, 2):
        eraser = Eraser(source, glasses="off", workers=workers)
        results[workers] = [frame.image for frame in eraser.frames(frames, landmarks)]
    assert all(np.array_equal(a, b) for a, b in zip(results[1], results[2], strict=True))
    held = Held()
    skin, grey = np.ones((128, 128, 1), np.float32), np.full((64, 64, 3), 0.5, np.float32)
    one, other = ({"skin": skin, "sources": np.full(289, n), "shading": grey} for n in (3.0, 9.0))
    assert held.steady(0, one)["sources"][0] == 3 and held.steady(0, other)["sources"][0] == 3
    assert held.steady(1, other)["sources"][0] == 9, "another face has its own"
    assert held.steady(0, {**one, "shading": grey + 0.02})["shading"] == pytest.approx(0.505), "a quarter of the way"
    assert held.steady(0, {**one, "shading": grey + 0.2})["shading"] == pytest.approx(0.7), "another light"
    bare = {"skin": np.zeros((128, 128, 1), np.float32), "sources": np.full(289, 840.0), "shading": grey}
    bare["skin"][100:] = 1  # skin only below, where source 840 lies and source 3 does not
    assert held.steady(0, bare)["sources"][0] == 840


def test_creases_go_with_a_whole_face_in_a_photograph_and_stay_in_a_video(network, tmp_path, monkeypatch) -> None:
    source, asked = saved(network, tmp_path / "net"), []
    monkeypatch.setattr(erasing, "with_creases", lambda mask, crop, level: asked.append(crop.shape) or mask)
    image = np.random.default_rng(0).integers(60, 200, (360, 360, 3), np.uint8)
    face = Face(np.random.default_rng(1).random((468, 2)).astype(np.float32) * 160 + 90)
    Eraser(source, glasses="off").photograph(image, [face])
    assert asked == [(SIZE, SIZE, 3)]
    Eraser(source, glasses="off", parts=("mouth",)).photograph(image, [face])  # or an eye that stays would be a crease
    list(Eraser(source, glasses="off").frames([(image, 0.04)], [[face]]))
    assert len(asked) == 1


# --- exported ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("planner")
    source = saved(network, folder / "net")
    erased = convert.export(source, folder / "exports", TFLite(flavour="web"))
    plan = convert.export(source, folder / "exports", TFLite(flavour="web", output="plan"))
    return {"source": source, "erased": folder / "exports" / erased["file"], "plan": folder / "exports" / plan["file"]}


def test_a_file_paints_what_its_network_paints_with_the_same_sources(exported, network, pictures) -> None:
    file, card = Artifact(exported["erased"], threads=1), read_card(exported["erased"])
    assert card["parity"]["plan_share_min"] == 1.0 and card["parity"]["max_abs_hole"] < 1e-4
    assert [port["name"] for port in card["outputs"]] == ["erased"]
    for picture in pictures[:3]:
        with torch.no_grad():
            expected = network(*tensors(picture))["erased"][0].permute(1, 2, 0).numpy()
        assert np.abs(file.run(picture.image, picture.mask) - expected).max() < 1e-4
    operators = card["checked"]["operators"]
    assert not {"ARG_MIN", "GATHER_ND", "BROADCAST_TO", "GREATER_EQUAL", "EMBEDDING_LOOKUP"} & set(operators)
    assert exported["erased"].stat().st_size < 4 * cost_of(network)[1] + 300_000, "no table of 289 x 841 is stored"


def test_a_file_that_only_plans_says_what_its_network_plans_and_erases_a_photograph(exported, network, pictures) -> None:
    file = Artifact(exported["plan"], threads=1)
    CARD.validate(file.card)
    assert file.plans and {port["name"] for port in file.card["outputs"]} == {"skin", "shading", "sources"}
    crop, hole = np.rint(pictures[0].image * 255).astype(np.uint8), pictures[0].mask > 0
    own, said = network.plan_of(crop, hole), file.plan(crop, hole)
    assert np.array_equal(own["sources"], said["sources"])
    assert all(np.allclose(own[name], said[name], atol=1e-4) for name in ("skin", "shading"))
    with pytest.raises(ValueError, match="makes plans but does not paint"):
        file.erase(crop, hole)
    mesh = np.random.default_rng(0).random((468, 2)).astype(np.float32) * 300 + 60
    face = Face(mesh)
    photo = np.random.default_rng(1).integers(0, 255, (480, 500, 3), np.uint8)
    results = [Eraser(exported[key], glasses="off").photograph(photo, [face]) for key in ("plan", "source")]
    for result in results:
        assert result.mask.any() and np.array_equal(result.image[~result.mask], photo[~result.mask])
    assert np.abs(results[0].image.astype(int) - results[1].image).max() <= 1


def test_sizes_that_cannot_be_painted_are_one_line(exported, run_script, tmp_path, capsys) -> None:
    assert run_script("export/to_tflite.py", exported["source"], tmp_path, "--painted", 300) == 2
    assert "expected a multiple of 128" in capsys.readouterr().err
    assert run_script("export/to_onnx.py", exported["source"], tmp_path, "--painted", 2176) == 2
    assert "up to 2048" in capsys.readouterr().err
    assert run_script("export/to_onnx.py", exported["source"], tmp_path, "--batch", 0) == 2
    assert "expected at least 1" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def elsewhere(exported, tmp_path_factory):
    """`elsewhere(how)` -> (path, card) of the same network in another format; each made once."""
    folder, files = tmp_path_factory.mktemp("elsewhere"), {}

    def export(format) -> tuple[Path, dict]:
        if format not in files:
            files[format] = convert.export(exported["source"], folder, format)
        return folder / files[format]["file"], files[format]

    return export


def test_an_onnx_file_paints_what_its_network_paints_and_says_its_size(elsewhere, network, pictures) -> None:
    path, card = elsewhere(ONNX())
    CARD.validate(card)
    assert card["parity"]["passed"] and card["parity"]["plan_share_min"] == 1.0 and "sizes" not in card
    file = Artifact(path, threads=1)
    with torch.no_grad():
        expected = network(*tensors(pictures[1]))["erased"][0].permute(1, 2, 0).numpy()
    assert np.abs(file.run(pictures[1].image, pictures[1].mask) - expected).max() < 1e-4
    assert [port["name"] for port in card["outputs"]] == ["erased"] and card["checked"]["operators"]["Gather"] >= 4
    with pytest.raises(ValueError, match="takes 256: resize it first"):
        file.run(np.zeros((128, 128, 3), np.float32), np.zeros((128, 128), np.float32))


def test_an_onnx_file_that_only_plans_says_what_its_network_plans(elsewhere, network, pictures) -> None:
    path, card = elsewhere(ONNX(output="plan"))
    CARD.validate(card)
    crop, hole = np.rint(pictures[0].image * 255).astype(np.uint8), pictures[0].mask > 0
    own, said = network.plan_of(crop, hole), Artifact(path, threads=1).plan(crop, hole)
    assert np.array_equal(own["sources"], said["sources"])
    assert all(np.allclose(own[name], said[name], atol=1e-4) for name in ("skin", "shading"))


def test_a_file_takes_a_batch_and_its_pictures_do_not_change_one_another(elsewhere, network, pictures) -> None:
    path, card = elsewhere(ONNX(batch=2))
    assert path.name == "net-batch2.onnx" and {port["shape"][0] for port in card["inputs"]} == {2}
    file = Artifact(path, threads=1)
    images, masks = (np.stack([getattr(p, name) for p in pictures[:3]]) for name in ("image", "mask"))
    together = file.run(images, masks)  # three pictures, two at a time
    for picture, painted in zip(pictures[:3], together, strict=True):
        with torch.no_grad():
            expected = network(*tensors(picture))["erased"][0].permute(1, 2, 0).numpy()
        assert np.abs(painted - expected).max() < 1e-4
        assert np.array_equal(painted, file.run(picture.image, picture.mask))


def test_a_saved_coreml_package_plans_and_paints_as_its_network(elsewhere, network, pictures) -> None:
    """Computed from the package alone: its body in float16, everything that it plans and paints by in float32."""
    path, card = elsewhere(CoreML())
    CARD.validate(card)
    assert card["evaluated_parity"]["passed"] and card["evaluated_parity"]["plan_share_min"] >= 0.95
    assert [port["name"] for port in card["outputs"]] == ["erased"] and "resample" not in card["checked"]["operators"]
    painting = [op for op in mil_program.Program(path).operators if op.op_type in ("gather", "floor")]
    types = {op.op_type: mil_program.type_of(op.outputs[0]) for op in painting}
    assert types == {"gather": torch.float32, "floor": torch.float32}
    image, mask = tensors(pictures[2])
    erased = evaluator(path)({"image": image, "mask": mask})["erased"]
    assert torch.equal(erased[:, :, mask[0, 0] == 0], image[:, :, mask[0, 0] == 0])
    path, card = elsewhere(CoreML(output="plan"))
    CARD.validate(card)
    crop, hole = np.rint(pictures[2].image * 255).astype(np.uint8), pictures[2].mask > 0
    own, said = network.plan_of(crop, hole), evaluator(path)({"image": image, "mask": mask})
    assert float(np.abs(own["skin"][..., 0] - said["skin"][0, 0].numpy()).max()) < 0.02
    assert float(np.abs(own["shading"] - said["shading"][0].permute(1, 2, 0).numpy()).max()) < 0.02


def test_an_int8_plan_is_its_fake_quantized_networks(tmp_path, pictures) -> None:
    network = lively(width=16)
    quant.fuse(network)
    quant.prepare(network, network.config.float_layers)
    network.config = dataclasses.replace(network.config, fused=True, quantized=True)
    quant.set_calibrating(network, True)
    with torch.no_grad():
        for picture in pictures[:4]:
            network(*tensors(picture))
    quant.set_calibrating(network, False)
    card = convert.export(saved(network, tmp_path / "int8"), tmp_path / "exports", TFLite())
    assert card["precision"] == "int8" and card["parity"]["passed"] and card["parity"]["plan_share_min"] >= 0.95
    assert card["checked"]["int8_convolutions"] == sum(isinstance(m, quant.QuantConv2d) for m in network.modules()) > 10
