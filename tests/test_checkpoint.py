"""The folder between stages: whole or absent, strict, the widths are the weights', and nothing is unpickled."""

import json

import pytest
import torch
from test_networks import lively, quantized

from faceeraser.artifacts.files import sha256_of
from faceeraser.model import checkpoint, quant
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser
from faceeraser.system import writing
from faceeraser.system.history import read_history
from faceeraser.training import channels


def write(folder, pipeline, **more):
    with writing.whole_folder(folder, **more) as partial:
        checkpoint.save(partial, pipeline, stage="test", options={"seed": 1}, metrics={})


def same(a: FaceEraser, b: FaceEraser) -> float:
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 15:50] = 1
    with torch.no_grad():
        return float((a(image, mask)["erased"] - b(image, mask)["erased"]).abs().max())


def pruned() -> FaceEraser:
    pipeline = lively("mobile", width=16)
    for _ in channels.prune_steps(pipeline, 0.5):
        pass
    return pipeline.eval()


def int8() -> FaceEraser:
    from dataclasses import replace

    pipeline = quantized()
    pipeline.config = replace(pipeline.config, fused=True, quantized=True)
    return pipeline.eval()


@pytest.mark.parametrize(
    "make", [lambda: lively("paper"), lambda: lively("mobile"), pruned, int8], ids=["paper", "mobile", "pruned", "int8"]
)
def test_a_network_comes_back_with_the_same_output(make, tmp_path):
    pipeline = make()
    write(tmp_path / "run", pipeline)
    again = checkpoint.load(tmp_path / "run")
    assert same(pipeline, again) == 0.0
    assert again.config == pipeline.config and not again.training


def test_every_scale_stands_under_its_tensors_own_name(tmp_path):
    pipeline = int8()
    write(tmp_path / "run", pipeline)
    stored = json.loads((tmp_path / "run" / "quantization.json").read_text())
    names = {name for name, _, _ in quant.quantized_tensors(pipeline)}
    assert set(stored) == names
    assert {"refine.down.0.conv1:out", "refine.down.0.conv1.conv:weight", "edge.head:out"} <= names
    assert not any(name.startswith("clone.head") for name in names), "the flow's head stays in float"
    assert len(stored["refine.down.0.conv1.conv:weight"]["scale"]) == pipeline.refine.down[0].conv1.conv.out_channels


def test_an_existing_target_is_refused_and_left_alone(tmp_path):
    write(tmp_path / "run", lively("mobile"))
    before = (tmp_path / "run" / "generators.safetensors").read_bytes()
    with pytest.raises(ValueError, match="--overwrite"):
        write(tmp_path / "run", lively("mobile", seed=5))
    assert (tmp_path / "run" / "generators.safetensors").read_bytes() == before
    write(tmp_path / "run", lively("mobile", seed=5), overwrite=True)
    assert (tmp_path / "run" / "generators.safetensors").read_bytes() != before


def test_a_stage_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), writing.whole_folder(tmp_path / "run") as partial:
        (partial / "half").write_text("written")
        raise RuntimeError("killed")
    assert not (tmp_path / "run").exists()


def test_weights_may_be_read_by_who_may_read_the_rest(tmp_path):
    """Made by one user and served by another: safetensors writes for its owner alone."""
    write(tmp_path / "run", lively("mobile", width=4))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
    assert modes["generators.safetensors"] == modes["config.json"], modes


def test_history_is_append_only(tmp_path):
    write(tmp_path / "a", lively("mobile"))
    with writing.whole_folder(tmp_path / "b") as partial:
        checkpoint.save(partial, pruned(), stage="prune", options={}, metrics={}, parent=tmp_path / "a")
    first, second = read_history(tmp_path / "b")
    assert [first] == read_history(tmp_path / "a")
    assert second["parent_sha256"] == first["sha256"] == sha256_of(tmp_path / "a" / "generators.safetensors")


def damage_missing(folder):
    (folder / "generators.safetensors").unlink()


def damage_truncated(folder):
    path = folder / "generators.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def damage_newer(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "heads": 3}))


def damage_shape(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "generators.safetensors")
    del state["refine.head.conv.bias"]
    save_file(state, folder / "generators.safetensors")


def damage_types(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resolution": 10**9}))


def damage_deep(folder):
    (folder / "config.json").write_text("[" * 100_000)


def damage_history(folder):
    (folder / "history.json").write_text('[{"stage": "train", "options": 7}]')


def without_history(damage):
    def both(folder):
        damage(folder)
        (folder / "history.json").unlink()

    return both


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "found no generators.safetensors"),
        (damage_truncated, "sha256 is .* damaged or replaced"),
        (without_history(damage_truncated), "not a whole safetensors file"),
        (damage_newer, "unknown fields"),
        (without_history(damage_shape), "do not fit config.json"),
        (damage_types, "resolution is '1000000000', expected"),
        (damage_deep, "nested too deep"),
        (damage_history, "options of entry 0 is '7'"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(damage, message, tmp_path):
    write(tmp_path / "run", lively("mobile"))
    damage(tmp_path / "run")
    with pytest.raises(ValueError, match=message) as refused:
        checkpoint.load(tmp_path / "run")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), [1.0, 2.0], "x", None])
def test_a_scale_is_a_number_above_0_or_refused(scale):
    with pytest.raises(ValueError, match="scale of a is"):
        checkpoint._scale(scale, (), "a")
    assert checkpoint._scale(0.5, (), "a") == 0.5


class Payload:
    """Would run code on loading, were it unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_a_state_with_a_pickle_in_it_is_refused(tmp_path, capsys):
    torch.save({"step": 1, "payload": Payload()}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="refused"):
        checkpoint.read_state(tmp_path / "state.pt")
    assert "unpickled" not in capsys.readouterr().out


def test_a_pickle_in_the_place_of_the_weights_is_refused(tmp_path, capsys):
    write(tmp_path / "run", lively("mobile"))
    torch.save({"weights": Payload()}, tmp_path / "run" / "generators.safetensors")
    with pytest.raises(ValueError, match="its history says"):
        checkpoint.load(tmp_path / "run")
    (tmp_path / "run" / "history.json").unlink()  # nor where nothing says what the weights were
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path / "run")
    assert "unpickled" not in capsys.readouterr().out


def test_the_constructors_width_does_not_matter_for_loading(tmp_path):
    wide = FaceEraser(Config.of("mobile", resolution=64), 24).eval()
    write(tmp_path / "run", wide)
    assert checkpoint.load(tmp_path / "run").refine.stem.conv.out_channels == 24
