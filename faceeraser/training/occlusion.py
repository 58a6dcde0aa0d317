"""What hangs in front of a face and stays when its parts are erased: a fringe, a strand, a hand, a microphone, a cup.

    network = OcclusionNet()
    shown = network(picture)      (N, 3, 128, 128) in [0, 1] -> (N, 1, 128, 128) in [0, 1], 1 = in front

A small U-Net at 128 x 128 pixels of the aligned crop, trained by `train/occlusion.py`. Hair is taught by the hair maps that
`train/prepare.py --hair` keeps (hair.py), where it is connected to hair above the brows or beside the temples, so that
beards and brows do not count as hair. Hands and objects are drawn into the pictures here. Glasses are not an occluder but a
part.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from tqdm import tqdm

from faceeraser.artifacts.files import sha256_of
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.face.occluders import IN_FRONT, SIDE, Occluders
from faceeraser.model import pairs
from faceeraser.model.checkpoint import read_state, write_state
from faceeraser.system import extras, script
from faceeraser.system.writing import whole_file

WIDTHS = (12, 24, 32, 40)
"""Channels at a half, a quarter, an eighth and a sixteenth of SIDE."""
SEEN_FROM = 0.3
"""Hair belongs to the head where it reaches above this share of the crop's height, or its edges: see `hair_of_the_head`."""


HAIR_COLOURS = ((30, 22, 18), (90, 60, 40), (190, 160, 110), (150, 150, 150), (110, 45, 25))
"""Of strands that are drawn, RGB."""


def _conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * ((kernel - 1) // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
    )


class OcclusionNet(nn.Module):
    """Picture (N, 3, 128, 128) in [0, 1] -> how surely each pixel is in front of the face, (N, 1, 128, 128)."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Sequential(_conv(3, a, 4, 2), _conv(a, a))
        self.down = nn.ModuleList(nn.Sequential(_conv(i, o, 4, 2), _conv(o, o)) for i, o in ((a, b), (b, c), (c, d)))
        self.deep = _conv(d, d, dilation=2)
        self.up = nn.ModuleList(_conv(i, o) for i, o in ((d, c), (c, b), (b, a)))
        self.join = nn.ModuleList(_conv(o, o) for o in (c, b, a))
        self.head = nn.Conv2d(a, 1, 1)

    def logits(self, picture: Tensor) -> Tensor:
        """The same before its sigmoid."""
        x = self.stem(picture - 0.5)
        kept = [x]
        for down in self.down:
            x = down(x)
            kept.append(x)
        x = self.deep(kept.pop())
        for up, join in zip(self.up, self.join, strict=True):
            x = join(up(F.interpolate(x, scale_factor=2.0, mode="nearest")) + kept.pop())
        return F.interpolate(self.head(x), scale_factor=2.0, mode="bilinear", align_corners=False)

    def forward(self, picture: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(picture))


def hair_of_the_head(hair: np.ndarray) -> np.ndarray:
    """Of a hair map (S, S) float32 in [0, 1], what hangs together with hair above the brows or beside the temples."""
    side = len(hair)
    count, labels = cv2.connectedComponents((hair > 0.4).astype(np.uint8), connectivity=8)
    edge = round(0.08 * side)
    there = np.concatenate(
        [
            labels[: round(SEEN_FROM * side)].ravel(),
            labels[: round(0.6 * side), :edge].ravel(),
            labels[: round(0.6 * side), -edge:].ravel(),
        ]
    )
    of_the_head = np.isin(np.arange(count), np.unique(there)) & (np.arange(count) > 0)
    grown = cv2.dilate(of_the_head[labels].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # its soft rim
    return np.where(grown, hair, 0.0).astype(np.float32)


class OcclusionPairs:
    """An endless, numbered stream: item k is (picture (3, 128, 128), in front (1, 128, 128), weight (1, 128, 128)).

    In every second picture something is drawn in front of the face; pictures are mirrored, moved, lit and coloured anew
    each time. weight: parts of the face, where it matters, count four times as much as what is never erased.

    Raises:
        ValueError: the folder holds no hair maps; prepare it with --hair.
    """

    def __init__(self, folder: Path | str, split: str = "train", seed: int = 0, drawn: float = 0.5) -> None:
        folder = Path(folder)
        self.seed, self.drawn, self.side = seed, drawn, int(pairs.data_of(folder)["size"])
        files = sorted((folder / "hair" / split).glob("*.png"))
        if not files:
            raise ValueError(f"{folder}: found no hair maps; run train/prepare.py again, with --hair")

        def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            both = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            parts = cv2.imread(str(folder / "masks" / split / path.name), cv2.IMREAD_GRAYSCALE)
            if both is None or both.ndim != 3 or both.shape[2] != 4 or parts is None:
                raise ValueError(f"{path}: expected a face with a hair map and its mask; run train/prepare.py again")
            front = hair_of_the_head(both[..., 3].astype(np.float32) / 255)
            return np.ascontiguousarray(both[..., 2::-1]), np.rint(front * 255).astype(np.uint8), parts > 0

        with ThreadPoolExecutor(8) as pool:
            self.faces = list(pool.map(read, files))

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, k))
        picture, front, parts = self.faces[rng.integers(len(self.faces))]
        picture, front = picture.astype(np.float32), front.astype(np.float32) / 255
        if rng.random() < self.drawn:
            other, *_ = self.faces[rng.integers(len(self.faces))]
            for _ in range(int(rng.integers(1, 3))):
                picture, front = _with_something_in_front(picture, front, other.astype(np.float32), rng)
        matrix = _moved(self.side, rng)
        flags = {"flags": cv2.INTER_AREA, "borderMode": cv2.BORDER_REPLICATE}
        picture, front, near = (
            cv2.warpAffine(x, matrix, (self.side,) * 2, **flags) for x in (picture, front, parts.astype(np.float32))
        )
        picture, front, near = (cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for x in (picture, front, near))
        picture = _lit(picture, rng)
        near = cv2.dilate(near, np.ones((9, 9), np.uint8))
        maps = (torch.from_numpy(x)[None] for x in (np.clip(front, 0, 1), 1 + 3 * near))
        front_map, weight = maps
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))), front_map, weight


def _moved(side: int, rng: np.random.Generator) -> np.ndarray:
    """A small turn, zoom and shift, and in every second case a mirror."""
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.normal(0, 4), rng.uniform(0.94, 1.08))
    matrix[:, 2] += rng.normal(0, 0.02 * side, 2)
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += side - 1
    return matrix


def _lit(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) in [0, 1] of [0, 255]: another light, sometimes no colour, sometimes blurred or noisy."""
    picture = np.clip(picture / 255, 0, 1) ** rng.uniform(0.7, 1.4) * rng.uniform(0.7, 1.15) * rng.uniform(0.9, 1.1, 3)
    if rng.random() < 0.1:
        picture = np.repeat(picture.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.3:
        picture = picture + rng.normal(0, rng.uniform(0, 0.03), picture.shape)
    return np.clip(picture, 0, 1).astype(np.float32)


# --- things in front of a face ---------------------------------------------------------------------------------------


def _with_something_in_front(
    picture: np.ndarray, front: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (S, S, 3) in [0, 255] with a hand, strands or a thing drawn on it, and its map (S, S) with that added."""
    kind = rng.choice(["hand", "strands", "thing", "thing"])
    if kind == "strands":
        alpha, colours = _strands(picture, rng)
    elif kind == "hand":
        alpha = _hand(len(picture), rng)
        colours = _surface(other, rng, skin=True)
    else:
        alpha = _thing(len(picture), rng)
        colours = _surface(other, rng, skin=False)
    if rng.random() < 0.5 and kind != "strands":  # its shadow on the face is no occluder
        away = np.array([[1, 0, rng.normal(0, 5)], [0, 1, rng.uniform(0, 7)]])
        shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, away, alpha.shape), (0, 0), rng.uniform(2, 6))
        picture = picture * (1 - rng.uniform(0.2, 0.6) * shadow[..., None])
    alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 1.4))
    return picture * (1 - alpha[..., None]) + colours * alpha[..., None], np.maximum(front, alpha)


def _surface(other: np.ndarray, rng: np.random.Generator, skin: bool) -> np.ndarray:
    """Colours (S, S, 3): skin of another face, or a piece of another picture or one colour, with a light of its own."""
    side = len(other)
    if skin:
        y, x = (rng.uniform(low, high) * side for low, high in ((0.5, 0.62), (0.2, 0.3)))  # a cheek, enlarged
        piece = other[int(y) : int(y) + side // 8, int(x) : int(x) + side // 8]
        colours = cv2.resize(piece, (side, side), interpolation=cv2.INTER_CUBIC)
        colours = colours.mean((0, 1)) * rng.uniform(0.75, 1.15) + 0.5 * (colours - colours.mean((0, 1)))
    elif rng.random() < 0.5:
        angle, zoom = rng.uniform(0, 360), rng.uniform(1.0, 4.0)
        there = cv2.getRotationMatrix2D((side / 2, side / 2), angle, zoom)
        there[:, 2] += rng.normal(0, side / 2, 2)
        colours = cv2.warpAffine(other, there, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    else:
        colour = rng.choice([rng.uniform(0, 255, 3), np.full(3, rng.uniform(0, 60)), np.full(3, 220.0)])
        colours = np.ones_like(other) * colour
        colours = colours + rng.normal(0, rng.uniform(0, 12), colours.shape)
    light = cv2.resize(rng.uniform(-0.35, 0.35, (3, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(colours * (1 + light[..., None]), 0, 255).astype(np.float32)


def _point(place: np.ndarray) -> tuple[int, int]:
    return int(place[0]), int(place[1])


def _hand(side: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S) float32: a palm and some fingers that come in from a side or from below."""
    shape = np.zeros((side, side), np.float32)
    from_side = rng.random() < 0.5
    start = np.array([rng.choice([-0.05, 1.05]), rng.uniform(0.4, 1.0)] if from_side else [rng.uniform(0, 1), 1.05]) * side
    towards = np.array([rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.8)]) * side - start
    towards /= np.linalg.norm(towards)
    across = np.array([-towards[1], towards[0]])
    width, reach = rng.uniform(0.045, 0.075) * side, rng.uniform(0.1, 0.45) * side
    palm = start + reach * towards
    fingers = int(rng.integers(2, 6))
    cv2.line(shape, _point(start), _point(palm), 1.0, max(1, int(width * fingers * 0.8)), cv2.LINE_AA)
    for n in range(fingers):
        root = palm + across * width * (n - (fingers - 1) / 2) * 1.05
        bend = rng.normal(0, 0.15) * across
        length = rng.uniform(0.15, 0.42) * side
        middle, tip = root + length * 0.5 * towards, root + length * (towards + bend)
        points = np.round(np.stack([root, middle, tip])).astype(np.int32)
        cv2.polylines(shape, [points], False, 1.0, max(2, int(width * rng.uniform(0.85, 1.0))), cv2.LINE_AA)
    return shape


def _thing(side: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S) float32: a ball on a stick, a cup, or a polygon that comes in from an edge."""
    shape = np.zeros((side, side), np.float32)
    middle = np.array([rng.uniform(0.1, 0.9), rng.uniform(0.35, 1.0)]) * side
    size = rng.uniform(0.08, 0.25) * side
    kind = rng.integers(3)
    if kind == 0:
        end = middle + np.array([rng.normal(0, 0.5), 1.5]) * size * 3
        cv2.line(shape, _point(middle), _point(end), 1.0, max(2, int(size * 0.6)), cv2.LINE_AA)
        axes = (int(size * rng.uniform(0.5, 0.9)), int(size * rng.uniform(0.6, 1.1)))
        cv2.ellipse(shape, _point(middle), axes, rng.uniform(-30, 30), 0, 360, 1.0, -1, cv2.LINE_AA)
    elif kind == 1:
        box = (tuple(middle), (size * rng.uniform(1.2, 2.4), size * rng.uniform(1.2, 3.0)), rng.uniform(-25, 25))
        cv2.fillPoly(shape, [np.round(cv2.boxPoints(box)).astype(np.int32)], 1.0, cv2.LINE_AA)
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 9))))
        reach = size * rng.uniform(0.5, 1.8, len(turns))
        points = middle + np.stack([np.cos(turns), np.sin(turns)], 1) * reach[:, None]
        cv2.fillPoly(shape, [np.round(points).astype(np.int32)], 1.0, cv2.LINE_AA)
    return shape


def _strands(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Strands of hair that fall from above: ((S, S) float32, their colours (S, S, 3))."""
    side = len(picture)
    shape = np.zeros((side, side), np.float32)
    root = np.array([rng.uniform(0.1, 0.9), rng.uniform(-0.05, 0.15)]) * side
    fall, swing, length = rng.uniform(0.2, 0.8) * side, rng.normal(0, 0.35) * side, int(rng.integers(1, 14))
    for _ in range(length):
        t = np.linspace(0, 1, 24)
        spread = rng.normal(0, 0.03, 3) * side
        x = root[0] + spread[0] + swing * t**2 + spread[1] * np.sin(3 * t)
        y = root[1] + fall * t * rng.uniform(0.8, 1.2) + spread[2]
        points = np.round(np.stack([x, y], 1) * 4).astype(np.int32)
        cv2.polylines(shape, [points], False, 1.0, int(rng.integers(1, 4)), cv2.LINE_AA, 2)
    if rng.random() < 0.5:
        colour = picture[: side // 16].reshape(-1, 3)[rng.integers(side * (side // 16))]  # what is at the top is mostly hair
    else:
        colour = np.array(HAIR_COLOURS, float)[rng.integers(len(HAIR_COLOURS))]
    return shape, np.clip(colour * rng.uniform(0.7, 1.2) + rng.normal(0, 12, (side, side, 1)), 0, 255).astype(np.float32)


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    data: OcclusionPairs, folder: Path, *, steps: int, batch: int, lr: float, seed: int, resume: bool = False
) -> tuple[OcclusionNet, float]:
    """Train from scratch: (the network in eval mode, seconds). Adam, cosine to a hundredth, cross-entropy by weight.

    folder: receives state.pt every SAVE_EVERY steps; with `resume`, a run goes on from there and ends with the same weights.
    """
    torch.manual_seed(seed)
    network = OcclusionNet().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, lr / 100)
    first, spent = 0, 0.0
    if resume and (folder / STATE).is_file():
        state = read_state(folder / STATE)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, spent = state["step"], state["seconds"]
    began = time.monotonic()
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="train occlusion", unit="step", mininterval=1)
    with ThreadPoolExecutor(1) as pool:  # the next batch is drawn while this one is learnt from

        def drawn(step: int) -> list[Tensor]:
            items = [data[k] for k in range(step * batch, (step + 1) * batch)]
            return [torch.stack(each) for each in zip(*items, strict=True)]

        coming = pool.submit(drawn, first)
        for step in bar:
            picture, front, weight = coming.result()
            coming = pool.submit(drawn, step + 1)
            loss = F.binary_cross_entropy_with_logits(network.logits(picture), front, weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 9:
                bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
            if step % SAVE_EVERY == SAVE_EVERY - 1 or step + 1 == steps:
                spent, began = spent + time.monotonic() - began, time.monotonic()
                write_state(
                    folder / STATE,
                    {
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "step": step + 1,
                        "seconds": spent,
                    },
                )
    return network.eval(), spent


STATE, WEIGHTS = "state.pt", "occlusion.safetensors"
SAVE_EVERY = 200


@torch.no_grad()
def measure(network: OcclusionNet, data: OcclusionPairs, pictures: int = 256) -> dict[str, float]:
    """Of validation pictures, near the parts, where it matters: `iou` of what is in front at a threshold of a half;
    `missed`, of what is in front, what is not said to be; `invented`, of the bare face, what is said to be in front.
    """
    both = either = missed = front_all = invented = bare_all = 0.0
    for k in range(pictures):
        picture, front, weight = data[k]
        said, truly, near = (x > 0.5 for x in (network.eval()(picture[None])[0], front, weight - 1.5))
        both += float((said & truly & near).sum())
        either += float(((said | truly) & near).sum())
        missed, front_all = missed + float((~said & truly & near).sum()), front_all + float((truly & near).sum())
        invented, bare_all = invented + float((said & ~truly & near).sum()), bare_all + float((~truly & near).sum())
    return {"iou": both / max(either, 1), "missed": missed / max(front_all, 1), "invented": invented / max(bare_all, 1)}


@torch.no_grad()
def sheet(network: OcclusionNet, data: OcclusionPairs, rows: int = 8, columns: int = 4) -> np.ndarray:
    """Pictures, and what is said to be in front of them in red: uint8 RGB."""
    cells = []
    for k in range(rows * columns):
        picture, *_ = data[k]
        shown = (picture.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        marked = shown.copy()
        marked[..., 0] = np.maximum(marked[..., 0], (network.eval()(picture[None])[0, 0].numpy() * 255).astype(np.uint8))
        cells.append(np.hstack([shown, marked]))
    return np.vstack([np.hstack(cells[k : k + columns]) for k in range(0, rows * columns, columns)])


def save(network: OcclusionNet, folder: Path) -> str:
    """Write the weights into a folder of `writing.whole_folder`, in half precision, which is what ships; returns their
    sha256.
    """
    state = {k: v.detach().half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    with whole_file(folder / WEIGHTS) as partial:
        partial.write_bytes(to_bytes({k: v.contiguous() for k, v in state.items()}))
    return sha256_of(folder / WEIGHTS)


def load(folder: Path | str) -> OcclusionNet:
    """The network of a folder that `train/occlusion.py` made, in eval mode.

    Raises:
        ValueError: there are no such weights, or they are damaged.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder}: found no {WEIGHTS}; make it with train/occlusion.py")
    network = OcclusionNet()
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: not the weights of this network ({str(error).splitlines()[0]}); fetch it again") from None
    return network.eval()


# --- export -----------------------------------------------------------------------------------------------------------

APART, DIFFERENT = 0.005, 0.005
"""How far a file may be from its network on average, and on what share of pixels the two may decide differently."""


class _ByPixels(nn.Module):
    """The network as a file runs it: (1, 128, 128, 3) -> (1, 128, 128, 1)."""

    def __init__(self, network: OcclusionNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> Tensor:
        said: Tensor = self.network(picture.permute(0, 3, 1, 2))
        return said.permute(0, 2, 3, 1)


def export(network: OcclusionNet, path: Path, data: OcclusionPairs, pictures: int = 64) -> dict[str, float]:
    """Write the network as a .tflite file with weights in int8 (dynamic range), and hold it to the network on pictures.

    Returns:
        `bytes`, and what the gate measured: `apart`, `different` (see APART and DIFFERENT).

    Raises:
        GateFailed: the file says something else than the network; nothing is written.
        ModuleNotFoundError: names the extra to install.
    """
    with extras.needed_for("a .tflite file", "tflite"):
        import litert_torch
        from ai_edge_quantizer import quantizer, recipe
    with whole_file(path) as partial:
        litert_torch.convert(_ByPixels(network).eval(), (torch.zeros(1, SIDE, SIDE, 3),)).export(str(partial))
        maker = quantizer.Quantizer(str(partial))
        maker.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        partial.write_bytes(maker.quantize().quantized_model)
        graph = Graph(partial)
        for number, tensor in enumerate(graph.graph.tensors):  # names of modules were a tenth of the file
            tensor.name = f"t{number}".encode()
        graph.write(partial)
        file, apart, different = Occluders(partial), [], []
        for k in range(pictures):
            picture = data[k][0]
            pixels = np.rint(picture.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
            with torch.no_grad():
                own = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0, 0].numpy()
            said = file(pixels)
            apart.append(float(np.abs(said - own).mean()))
            different.append(float(((said > IN_FRONT) != (own > IN_FRONT)).mean()))
        distances = {"apart": float(np.mean(apart)), "different": float(np.mean(different))}
        limits = f"expected at most {APART} and {DIFFERENT}"
        if distances["apart"] > APART or distances["different"] > DIFFERENT:
            raise script.GateFailed(f"{path}: {distances}, {limits}; the file is not written")
        return {"bytes": partial.stat().st_size, **{name: round(value, 6) for name, value in distances.items()}}
