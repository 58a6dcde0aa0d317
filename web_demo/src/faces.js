// Find a face, its landmarks and its parts; level it into a crop and put the crop back: Python's finder, masks and crops, step
// by step. Names, units and order of the arithmetic are those modules', which tell why; tests/test_web.py compares the two.

import {
  averaged, blank, blurred, bounds, closed, cut, depths, extremes, fillPolygon, inverted, moved, reached, rounded, scaleOf,
  scaled, smoothed, warp,
} from './picture.js';

/** @typedef {import('./picture.js').Picture} Picture */
/** @typedef {import('./picture.js').Matrix} Matrix */
/**
 * What /data/faces.json tells of the mesh (serve.py writes it): polygons, eyes, oval, dilations.
 * @typedef {Object} Known
 */
/**
 * A model that is run: float arrays in, in the order of its inputs, float arrays out, in the order of its outputs.
 * @typedef {(inputs: Float32Array[]) => Promise<Float32Array[]>} Run
 */

const GLASSES_CROP = 512;
const DETECTOR = 128;
const LANDMARKER = 192;

/** @returns {Matrix} cuts a square of `side` picture pixels, turned by `roll` radians, to `size` x `size` pixels */
function square([cx, cy], side, roll, size) {
  const scale = size / side;
  const [c, s] = [scale * Math.cos(roll), scale * Math.sin(roll)];
  const middle = (size - 1) / 2;
  return [c, s, middle - c * cx - s * cy, -s, c, middle + s * cx - c * cy];
}

/** The mean of some points of a mesh. */
function mean(mesh, indices) {
  const sum = [0, 0];
  for (const k of indices) {
    sum[0] += mesh[k][0];
    sum[1] += mesh[k][1];
  }
  return [sum[0] / indices.length, sum[1] / indices.length];
}

/** [least, greatest] of points, each [x, y]. */
function extent(points) {
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  for (const [x, y] of points) {
    low[0] = Math.min(low[0], x);
    low[1] = Math.min(low[1], y);
    high[0] = Math.max(high[0], x);
    high[1] = Math.max(high[1], y);
  }
  return [low, high];
}

/** One face in a picture. */
export class Face {
  /**
   * @param {number[][]} mesh MediaPipe's 468 points, in picture pixels
   * @param {number} score how sure the detector is, in [0, 1]
   * @param {Known} known
   */
  constructor(mesh, score, known) {
    this.mesh = mesh;
    this.score = score;
    this.known = known;
    /** The middle of the eye on the picture's left, then of the one on its right. */
    this.eyes = [mean(mesh, known.right_eye), mean(mesh, known.left_eye)];
    const [dx, dy] = [this.eyes[1][0] - this.eyes[0][0], this.eyes[1][1] - this.eyes[0][1]];
    this.eyeDistance = Math.hypot(dx, dy);
    /** Radians; positive when the eye on the picture's right is the lower one. */
    this.roll = Math.atan2(dy, dx);
    const [low, high] = extent(known.oval.map((k) => mesh[k]));
    this.width = Math.max(high[0] - low[0], high[1] - low[1]);
  }

  /** The same face in the coordinates that a matrix leads to. */
  moved(matrix) {
    return new Face(this.mesh.map((point) => moved(matrix, point)), this.score, this.known);
  }
}

/** Anchor centres of the detector in [0, 1]: 16 x 16 cells twice, then 8 x 8 cells six times. */
function anchors() {
  const centres = [];
  for (const [cells, repeats] of [[16, 2], [8, 6]]) {
    for (let y = 0; y < cells; y++) {
      for (let x = 0; x < cells; x++) {
        for (let k = 0; k < repeats; k++) centres.push([(x + 0.5) / cells, (y + 0.5) / cells]);
      }
    }
  }
  return centres;
}

/** Where half-overlapping windows of `side` begin so that they cover `length`. */
function starts(length, side) {
  const last = Math.max(0, length - side);
  const found = [];
  for (let at = 0; at < last; at += Math.max(1, side >> 1)) found.push(at);
  return [...found, last];
}

/** Merge overlapping candidates into their average weighted by score (BlazeFace's blending), best first. */
function weightedNms(candidates, overlap = 0.3) {
  let left = [...candidates].sort((a, b) => b.score - a.score);
  const area = ([low, high]) => Math.max(0, high[0] - low[0]) * Math.max(0, high[1] - low[1]);
  const found = [];
  while (left.length) {
    const [best] = left;
    const shares = (other) => {
      const [a, b] = [best.points, other.points];
      const shared = [0, 1].map((k) => Math.max(0, Math.min(a[1][k], b[1][k]) - Math.max(a[0][k], b[0][k])));
      const both = shared[0] * shared[1];
      return other === best || both / Math.max(area(a) + area(b) - both, 1e-9) > overlap;
    };
    const same = left.filter(shares);
    const weight = same.reduce((sum, {score}) => sum + score, 0);
    const points = best.points.map((_, k) =>
      [0, 1].map((axis) => same.reduce((sum, one) => sum + one.points[k][axis] * one.score, 0) / weight));
    found.push({points, score: best.score});
    left = left.filter((other) => !same.includes(other));
  }
  return found;
}

/** The detector and the mesh, in two steps that can be timed, and used apart by a tracker. */
export class Finder {
  /**
   * @param {Run} detector 128 x 128 x 3 in [-1, 1]
   * @param {Run} landmarker 192 x 192 x 3 in [0, 1]
   * @param {Known} known
   */
  constructor(detector, landmarker, known) {
    this.detector = detector;
    this.landmarker = landmarker;
    this.known = known;
    this.anchors = anchors();
  }

  /**
   * Boxes and key points of every face as 8 points (two corners, then eyes, nose, mouth, ears) with their scores, best first.
   * @param {Picture} image
   * @param {boolean} closer where nothing is found, look once more at parts of the picture, for smaller faces
   */
  async detect(image, closer = true, minScore = 0.5) {
    const {width, height} = image;
    let candidates = await this.look(image, 0, 0, width, height, Math.max(width, height), minScore);
    if (closer && !candidates.length && Math.max(width, height) >= 256) {
      // The short-range detector sees faces from about a sixth of the picture on. Before giving up, look closer.
      const side = Math.max(width, height) >> 1;
      for (const y of starts(height, side)) {
        for (const x of starts(width, side)) {
          const view = [x, y, Math.min(side, width - x), Math.min(side, height - y)];
          candidates = candidates.concat(await this.look(image, ...view, side, minScore));
        }
      }
    }
    return weightedNms(candidates);
  }

  async look(image, left, top, width, height, side, minScore) {
    // 128 pixels for `side`, the rest black on both sides, as the model was trained.
    const scale = DETECTOR / side;
    const [w, h] = [Math.max(1, rounded(width * scale)), Math.max(1, rounded(height * scale))];
    const small = averaged(image, w, h, {left, top, right: left + width, bottom: top + height, channels: 3});
    const [x0, y0] = [(DETECTOR - w) >> 1, (DETECTOR - h) >> 1];
    const canvas = new Float32Array(DETECTOR * DETECTOR * 3).fill(-1);
    for (let y = 0; y < h; y++) {
      for (let i = 0; i < w * 3; i++) {
        canvas[((y0 + y) * DETECTOR + x0) * 3 + i] = small.data[y * w * 3 + i] / 127.5 - 1;
      }
    }
    const [raw, logits] = (await this.detector([canvas])).sort((a, b) => b.length - a.length);
    const found = [];
    this.anchors.forEach((anchor, k) => {
      const score = 1 / (1 + Math.exp(-Math.min(Math.max(logits[k], -80), 80)));
      if (score < minScore) return;
      const n = Array.from(raw.subarray(16 * k, 16 * k + 16), (value) => value / DETECTOR);
      const centre = [n[0] + anchor[0], n[1] + anchor[1]];
      const points = [[centre[0] - n[2] / 2, centre[1] - n[3] / 2], [centre[0] + n[2] / 2, centre[1] + n[3] / 2]];
      for (let j = 4; j < 16; j += 2) points.push([n[j] + anchor[0], n[j + 1] + anchor[1]]);
      const there = ([x, y]) => [
        ((x * DETECTOR - x0) * width) / w - 0.5 + left, ((y * DETECTOR - y0) * height) / h - 0.5 + top,
      ];
      found.push({points: points.map(there), score});
    });
    return found;
  }

  /**
   * The landmarks of what was detected, in two passes.
   * @returns {Promise<Face | null>} null where the landmark model sees no face
   */
  async landmarks(image, {points: [low, high, right, left], score}) {
    const centre = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
    const side = 1.5 * Math.max(high[0] - low[0], high[1] - low[1]);
    const first = await this.pass(image, centre, side, Math.atan2(left[1] - right[1], left[0] - right[0]));
    // The second crop, taken from the first mesh, is centred better than the detector's. Only its opinion counts.
    const second = first && (await this.pass(image, ...around(first)));
    return second && second.score >= 0.5 ? new Face(second.mesh, score, this.known) : null;
  }

  /**
   * The same face in the next frame of a video, in one pass from where its mesh was; its score is the landmark model's own.
   * @returns {Promise<Face | null>} null when it is lost
   */
  async follow(image, face) {
    const found = await this.pass(image, ...around(face));
    return found && found.score >= 0.5 ? found : null;
  }

  /** The mesh in a square of the picture, its score the model's own; null for a square that cannot be meant. */
  async pass(image, centre, side, roll) {
    if (!(side >= 4 && side <= 8 * Math.max(image.width, image.height))) return null;
    const matrix = square(centre, side, roll, LANDMARKER);
    const patch = cut(image, matrix, LANDMARKER, LANDMARKER);
    const [raw, logit] = (await this.landmarker([scaled(patch, Math.fround(1 / 255))]))
      .sort((a, b) => b.length - a.length);
    const back = inverted(matrix);
    const mesh = Array.from({length: this.known.mesh_points}, (_, k) => moved(back, [raw[3 * k], raw[3 * k + 1]]));
    const presence = 1 / (1 + Math.exp(-Math.min(80, Math.max(-80, logit[0]))));
    return new Face(mesh.map(([x, y]) => [Math.fround(x), Math.fround(y)]), presence, this.known);
  }
}

/** Centre, side and roll of the square that the landmark model looks at, for a face whose mesh is known. */
function around({mesh}) {
  const roll = Math.atan2(mesh[263][1] - mesh[33][1], mesh[263][0] - mesh[33][0]);
  const turn = [Math.cos(roll), Math.sin(roll), 0, -Math.sin(roll), Math.cos(roll), 0];
  const [low, high] = extent(mesh.map((point) => moved(turn, point)));
  const centre = moved(inverted(turn), [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2]);
  return [centre, 1.5 * Math.max(high[0] - low[0], high[1] - low[1]), roll];
}

/**
 * Where some parts of a face are, each pixel at most its dilation from a part's polygon: 1, else 0.
 * @param {Face} face in the map's coordinates
 * @param {string[]} parts
 * @param {Object<string, number>} dilation of each part, in pixels of a 256-pixel crop
 * @returns {Uint8Array}
 */
export function partsMap(face, width, height, parts, dilation, dilate = 1) {
  const field = new Uint8Array(width * height);
  const perPixel = (dilate * face.eyeDistance) / face.known.dilation_eye_distance;
  for (const part of parts) {
    const polygons = face.known.polygons[part].map((polygon) => polygon.map((k) => face.mesh[k]));
    fillNear(field, width, height, polygons, dilation[part] * perPixel);
  }
  return field;
}

function fillNear(field, width, height, polygons, radius) {
  const [least, most] = extent(polygons.flat());
  const low = least.map((v) => Math.max(Math.floor(v - radius - 2), 0));
  const high = [Math.min(Math.ceil(most[0] + radius + 3), width), Math.min(Math.ceil(most[1] + radius + 3), height)];
  if (high[0] <= low[0] || high[1] <= low[1]) return;
  // Polygons that leave the picture still dilate into it, so they are drawn with a rim of the radius around the view.
  const rim = Math.ceil(radius) + 1;
  const [w, h] = [high[0] - low[0] + 2 * rim, high[1] - low[1] + 2 * rim];
  const canvas = new Uint8Array(w * h).fill(1);
  for (const polygon of polygons) {
    fillPolygon(canvas, w, h, polygon.map(([x, y]) => [x - low[0] + rim, y - low[1] + rim]), 0);
  }
  const away = depths(canvas, w, h);
  for (let y = low[1]; y < high[1]; y++) {
    for (let x = low[0]; x < high[0]; x++) {
      if (away[(y - low[1] + rim) * w + x - low[0] + rim] <= radius) field[y * width + x] = 1;
    }
  }
}

/** @returns {Matrix} picture to crop coordinates: eyes level, from the hairline to the chin */
export function alignMatrix(face, size) {
  const turn = [Math.cos(face.roll), Math.sin(face.roll), 0, -Math.sin(face.roll), Math.cos(face.roll), 0];
  const [low, high] = extent(face.known.oval.map((k) => moved(turn, face.mesh[k])));
  const centre = moved(inverted(turn), [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2]);
  return square(centre, 1.04 * Math.max(high[0] - low[0], high[1] - low[1]), face.roll, size);
}

/**
 * What to erase of a face, in the coordinates of its aligned crop.
 * @param {string[]} parts any of brows, eyes, nose, mouth, glasses
 * @returns {Uint8Array} (size, size), 1 = erase
 */
export function faceMask(face, size, parts) {
  const level = face.moved(alignMatrix(face, size));
  const {polygons, dilation_erased: dilation, least_dilation: least, slit, glabella} = face.known;
  const drawn = (which) => partsMap(level, size, size, parts.filter((part) => part in polygons && which(part)), dilation);
  const mask = closed(drawn((part) => part === 'brows'), size, size, (glabella * level.eyeDistance) / 2);
  drawn((part) => part !== 'brows').forEach((on, k) => (mask[k] |= on));
  const glasses = parts.includes('glasses') ? drawnGlasses(face, size) : [];
  glasses.forEach((worn, k) => (mask[k] |= worn));
  const inside = insideOutline(level, size);
  const deep = (face.known.margin * level.eyeDistance) / face.known.dilation_eye_distance;
  // What is narrow between erased parts keeps a crease: see masks.py.
  const whole = closed(mask, size, size, (slit * level.eyeDistance) / 2);
  if (!whole.some((on, k) => on && inside[k] <= deep)) return whole;
  const all = Object.keys(polygons);
  const near = partsMap(level, size, size, all, Object.fromEntries(all.map((part) => [part, least])));
  return whole.map((on, k) => (on && (inside[k] > deep || near[k] || glasses[k]) ? 1 : 0));
}

/**
 * A mask of a whole face and the creases that begin at it, as masks.py has it; for a still picture.
 * @param {Uint8Array} mask (size, size), 1 = erase
 * @param {Picture} crop (size, size, 3) of 8 bits; what is under the mask is not looked at
 * @param {Face} level the face in the crop's coordinates
 * @returns {Uint8Array} (size, size)
 */
export function withCreases(mask, crop, level) {
  const {creases, painting, margin, dilation_eye_distance: distance} = level.known;
  const {darker, valley, touches, reaches, around, deeper} = creases;
  const size = crop.width;
  const unit = level.eyeDistance / distance;
  const away = depths(mask.map((on) => 1 - on), size, size);
  const inside = insideOutline(level, size);
  const there = mask.map((on, k) => (!on && inside[k] > deeper * unit && away[k] <= reaches * unit ? 1 : 0));
  const [red, green, blue] = painting.luma;
  const luma = new Float32Array(mask.length);
  for (let k = 0; k < luma.length; k++) {
    luma[k] = red * crop.data[3 * k] + green * crop.data[3 * k + 1] + blue * crop.data[3 * k + 2];
  }
  const count = there.reduce((sum, on) => sum + on, 0);
  if (!count) return mask;
  const usual = luma.reduce((sum, value, k) => sum + value * there[k], 0) / count;
  mask.forEach((on, k) => on && (luma[k] = usual));
  const smooth = blurred({width: size, height: size, channels: 1, data: luma}).data;
  const half = rounded(valley * unit);
  const closing = extremes(extremes(smooth, size, size, half, Math.max), size, size, half, Math.min);
  const dark = there.map((on, k) => (on && closing[k] - smooth[k] > darker * usual ? 1 : 0));
  const creased = reached(dark, size, (k) => away[k] <= touches * unit);
  if (!creased.includes(1)) return mask;
  const beside = depths(creased.map((on) => 1 - on), size, size);
  return mask.map((on, k) => (on || (inside[k] > margin * unit && beside[k] <= around * unit) ? 1 : 0));
}

/** How far inside the outline of a face, where no skin is painted on hair or a wall, each pixel of its crop lies. */
function insideOutline(level, size) {
  const {oval} = level.known;
  const outline = new Uint8Array(size * size);
  fillPolygon(outline, size, size, oval.map((k) => level.mesh[k]), 1);
  return depths(outline, size, size);
}

/** A pair of glasses that fits the landmarks, and all that it encloses: what glasses.py erases where no frame stands out. */
function drawnGlasses(face, size) {
  const level = face.moved(alignMatrix(face, GLASSES_CROP));
  const n = GLASSES_CROP;
  const drawn = new Uint8Array(n * n);
  const unit = level.eyeDistance;
  const [halfWidth, halfHeight, power, drop] = [0.39, 0.31, 3.5, 0.065];
  const radius = Math.max(1, rounded(0.07 * unit)) / 2;
  const right = [Math.cos(level.roll), Math.sin(level.roll)];
  const from = ([x, y], across, along) => [
    x + unit * (across * right[0] - along * right[1]), y + unit * (across * right[1] + along * right[0]),
  ];
  const line = ([ax, ay], [bx, by]) => {
    const [dx, dy] = [bx - ax, by - ay];
    for (let y = Math.max(0, Math.floor(Math.min(ay, by) - radius)); y <= Math.min(n - 1, Math.max(ay, by) + radius); y++) {
      for (let x = Math.max(0, Math.floor(Math.min(ax, bx) - radius)); x <= Math.min(n - 1, Math.max(ax, bx) + radius); x++) {
        const t = Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
        if (Math.hypot(x - ax - t * dx, y - ay - t * dy) <= radius) drawn[y * n + x] = 1;
      }
    }
  };
  const signed = (v) => Math.sign(v) * Math.abs(v) ** (2 / power);
  const inner = [];
  [[-1, level.eyes[0], level.mesh[127]], [1, level.eyes[1], level.mesh[356]]].forEach(([side, eye, edge]) => {
    const middle = from(eye, side * 0.04, drop);
    const lens = Array.from({length: 64}, (_, k) => (k * Math.PI) / 32)
      .map((t) => from(middle, halfWidth * signed(Math.cos(t)), halfHeight * signed(Math.sin(t))));
    fillPolygon(drawn, n, n, lens, 1);
    lens.forEach((point, k) => line(point, lens[(k + 1) % lens.length]));
    line(from(middle, side * halfWidth, -0.4 * halfHeight), edge);
    inner.push(from(eye, side * (0.04 - halfWidth), drop - 0.25 * halfHeight));
  });
  const top = from([(inner[0][0] + inner[1][0]) / 2, (inner[0][1] + inner[1][1]) / 2], 0, -0.05);
  line(inner[0], top);
  line(top, inner[1]);
  return averaged(enclosed(drawn, n), size, size).data.map((v) => (v > 0 ? 1 : 0));
}

/** A drawing and all that it encloses, as a picture of 0 and 255: all but what can be reached from the border. */
function enclosed(drawn, n) {
  const outside = new Uint8Array(n * n);
  const open = [];
  const visit = (k) => {
    if (drawn[k] || outside[k]) return;
    outside[k] = 1;
    open.push(k);
  };
  for (let k = 0; k < n; k++) [k, (n - 1) * n + k, k * n, k * n + n - 1].forEach(visit);
  while (open.length) {
    const k = open.pop();
    const x = k % n;
    if (x > 0) visit(k - 1);
    if (x < n - 1) visit(k + 1);
    if (k >= n) visit(k - n);
    if (k < n * (n - 1)) visit(k + n);
  }
  const result = blank(n, n, 1);
  outside.forEach((there, k) => (result.data[k] = there ? 0 : 255));
  return result;
}

/**
 * Put a crop's masked pixels back where it was cut out; pixels outside the mask stay as they are. The blend runs from the
 * mask's rim inwards, level at both ends.
 * @param {Picture} image changed: the whole picture, RGB or RGBA
 * @param {Picture} crop (size, size, 3)
 * @param {Matrix} matrix of `alignMatrix`
 * @param {Uint8Array} mask (size, size), non-zero = paste
 * @param {number} feather width of the blend in crop pixels
 */
export function pasteBack(image, crop, matrix, mask, feather = 3) {
  const {width, height} = crop;
  const box = bounds(mask, width, height);
  if (!box) return;
  const weight = rimDepths(mask, width, height).map((depth) => {
    const share = Math.min(1, depth / (feather + 1));
    return share * share * (3 - 2 * share);
  });
  // Only where the mask is: a few pixels more, for what interpolation reaches.
  const back = inverted(matrix);
  const [x0, y0, x1, y1] = [box.left - 0.5, box.top - 0.5, box.left + box.width + 0.5, box.top + box.height + 0.5];
  const [least, most] = extent([[x0, y0], [x1, y0], [x0, y1], [x1, y1]].map((corner) => moved(back, corner)));
  const limit = (value, size) => Math.min(Math.max(value, 0), size);
  const left = limit(Math.floor(least[0]) - 1, image.width);
  const top = limit(Math.floor(least[1]) - 1, image.height);
  const w = limit(Math.ceil(most[0]) + 2, image.width) - left;
  const h = limit(Math.ceil(most[1]) + 2, image.height) - top;
  if (w <= 0 || h <= 0) return;
  const local = [back[0], back[1], back[2] - left, back[3], back[4], back[5] - top];
  const scale = scaleOf(local);
  // Where the crop is larger than the face was, average before sampling.
  const source = scale < 0.75 ? smoothed(crop, 0.4 / scale) : crop;
  const pasted = warp(source, local, w, h, scale > 1 ? 'cubic' : 'linear').data;
  const alpha = warp({width, height, channels: 1, data: weight}, local, w, h, 'linear', {zero: true}).data;
  // Linear sampling spreads the weight up to a pixel beyond the rim; the mask itself says where that must not show.
  const inside = {width, height, channels: 1, data: new Uint8ClampedArray(mask)};
  const allowed = warp(inside, local, w, h, 'nearest', {zero: true}).data;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const from = y * w + x;
      if (!allowed[from]) continue;
      const to = ((top + y) * image.width + left + x) * image.channels;
      for (let c = 0; c < 3; c++) {
        const before = image.data[to + c];
        image.data[to + c] = before + (pasted[3 * from + c] - before) * alpha[from];
      }
    }
  }
}

/** How far each pixel of a mask is from what is outside it, or from beyond the border. */
export function rimDepths(mask, width, height) {
  const padded = new Uint8Array((width + 2) * (height + 2));
  for (let y = 0; y < height; y++) padded.set(mask.subarray(y * width, (y + 1) * width), (y + 1) * (width + 2) + 1);
  const away = depths(padded, width + 2, height + 2);
  const result = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = (y + 1) * (width + 2) + 1;
    result.set(away.subarray(from, from + width), y * width);
  }
  return result;
}
