// Paint what a plan says on a picture's own grid: faceeraser/artifacts/painting.py, which tells why, with the constants that
// /data/faces.json has of it. A pixel of the box around the crop is gone over once, or twice where it is painted.

import {averaged, cubic, inverted, moved, rounded} from './picture.js';

/** @typedef {import('./picture.js').Picture} Picture */
/** @typedef {import('./picture.js').Matrix} Matrix */
/**
 * @typedef {Object} Plan what a file or a network says, row by row
 * @property {Float32Array} skin (seen, seen) in [0, 1]
 * @property {Float32Array} shading (shaded, shaded, 3) in [0, 1]
 * @property {Float32Array} sources one whole number for each window
 */
/** @typedef {Object} Constants `painting` of /data/faces.json */

const CLEAR = 1e-4; // what a mean is divided by at least

/** A map of the crop on another grid, at coordinates in single precision as OpenCV keeps them; its border is repeated. */
export class Sampled {
  /**
   * @param {Float32Array} field (side, side), or (side, side, 3) for `smooth`
   * @param {number} side
   * @param {Matrix} local from the grid's pixels to those of the crop
   * @param {number} size of the crop
   */
  constructor(field, side, local, size) {
    const scale = side / size;
    const shift = 0.5 * scale - 0.5;
    const there = local.map((v, k) => Math.fround(v * scale + (k % 3 === 2 ? shift : 0)));
    Object.assign(this, {field, side, last: side - 1});
    [this.a, this.b, this.x0, this.c, this.d, this.y0] = there;
    this.across = new Float64Array(4);
    this.along = new Float64Array(4);
  }

  column(x, y) {
    return Math.fround(Math.fround(Math.fround(this.a * x) + Math.fround(this.b * y)) + this.x0);
  }

  row(x, y) {
    return Math.fround(Math.fround(Math.fround(this.c * x) + Math.fround(this.d * y)) + this.y0);
  }

  /** Of a map of one channel, linearly. */
  linear(x, y) {
    const {field, side, last} = this;
    const column = this.column(x, y);
    const row = this.row(x, y);
    const left = Math.floor(column);
    const top = Math.floor(row);
    const right = column - left;
    const down = row - top;
    const x0 = left < 0 ? 0 : left > last ? last : left;
    const x1 = left < -1 ? 0 : left >= last ? last : left + 1;
    const y0 = (top < 0 ? 0 : top > last ? last : top) * side;
    const y1 = (top < -1 ? 0 : top >= last ? last : top + 1) * side;
    const upper = field[y0 + x0] * (1 - right) + field[y0 + x1] * right;
    const lower = field[y1 + x0] * (1 - right) + field[y1 + x1] * right;
    return upper * (1 - down) + lower * down;
  }

  /** Of a map of three channels, smoothly, into `out`. */
  smooth(x, y, out) {
    const {field, side, last, across, along} = this;
    const column = this.column(x, y);
    const row = this.row(x, y);
    const left = Math.floor(column);
    const top = Math.floor(row);
    cubic(column - left, across);
    cubic(row - top, along);
    let red = 0;
    let green = 0;
    let blue = 0;
    for (let j = 0; j < 4; j++) {
      const line = Math.min(Math.max(top + j - 1, 0), last) * side;
      for (let i = 0; i < 4; i++) {
        const weight = along[j] * across[i];
        const from = 3 * (line + Math.min(Math.max(left + i - 1, 0), last));
        red += weight * field[from];
        green += weight * field[from + 1];
        blue += weight * field[from + 2];
      }
    }
    out[0] = red;
    out[1] = green;
    out[2] = blue;
  }
}

/**
 * Paint what a plan says into a picture, in place; what is under the mask is not looked at.
 * @param {Picture} image RGB or RGBA of 8 bits, changed where the mask is, and nowhere else
 * @param {Uint8Array} mask (size, size), 1 = erase, in the crop's coordinates
 * @param {Picture} crop (size, size, 3), what the plan was made of
 * @param {Plan} plan
 * @param {Matrix} matrix from the picture's coordinates to the crop's
 * @param {Constants} constants
 * @param {Float32Array | null} share (size, size) in [0, 1], the share that what is painted has of pixels: 1 in the mask, less
 *   where it fades out over what is in front (occluders.js); null: nothing is
 * @param {boolean} moving of a video: windows are moved by fractions of pixels, where whole ones would jump
 */
export function paintByPlan(image, mask, crop, plan, matrix, constants, share = null, moving = false) {
  const size = crop.width;
  const box = boxOf(size, inverted(matrix), image);
  if (box.width <= 0 || box.height <= 0) return;
  const [a, b, x0, c, d, y0] = matrix;
  const local = [a, b, x0 + a * box.left + b * box.top, c, d, y0 + c * box.left + d * box.top];
  const {detail, hole} = detailed(image, box, mask, crop, plan.skin, local, constants);
  const shares = fading(share, hole, box, local, size, constants);
  const texture = new Texture(detail, box, plan.sources, local, size, moving, constants);
  lay(image, box, shares, texture, new Sampled(plan.shading, constants.shaded, local, size), isGrey(crop), constants);
}

/** What share the painted has of each pixel of the box, 0 where nothing is painted. */
function fading(share, hole, {width, height}, local, size, {least_share: least}) {
  const shares = new Float32Array(hole);
  const edge = share?.map((v) => (v > 0 && v < 1 ? 1 : 0));
  if (!edge?.some((v) => v)) return shares;
  const [all, edges] = [share, edge].map((field) => new Sampled(field, size, local, size));
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      if (hole[k] || edges.linear(x, y) <= 0) continue;
      const there = all.linear(x, y);
      if (there > least) shares[k] = there;
    }
  }
  return shares;
}

/** The box of a picture that is read or painted: the whole crop, as far as it lies inside. */
function boxOf(size, back, image) {
  const [low, high] = [-0.5, size - 0.5];
  const corners = [[low, low], [high, low], [low, high], [high, high]].map((corner) => moved(back, corner));
  const within = (v, most) => Math.min(Math.max(v, 0), most);
  const range = (axis, most) => {
    const values = corners.map((corner) => corner[axis]);
    const first = within(Math.floor(Math.min(...values)), most);
    return [first, within(Math.ceil(Math.max(...values)) + 1, most) - first];
  };
  const [[left, width], [top, height]] = [range(0, image.width), range(1, image.height)];
  return {left, top, width, height};
}

/** The bounded detail of skin, fainter where it is creased, 0 where none may be copied, and which pixels are to be painted; both of the box. */
function detailed(image, box, mask, crop, skin, local, constants) {
  const {seen, shaded, bound, deviation, clean: {slope, offset}, luma: [red, green, blue], most_deviation: creased} = constants;
  const {width, height} = box;
  const size = crop.width;
  const holes = new Sampled(new Float32Array(mask), size, local, size);
  const cleans = new Sampled(skin.map((v) => Math.min(Math.max(slope * v - offset, 0), 1)), seen, local, size);
  const own = new Sampled(ownShading(crop, mask, skin, constants), shaded, local, size);
  const detail = new Float32Array(width * height);
  const hole = new Uint8Array(width * height);
  let [all, clear] = [0, 0];
  for (let y = 0, k = 0; y < height; y++) {
    let from = ((box.top + y) * image.width + box.left) * image.channels;
    for (let x = 0; x < width; x++, k++, from += image.channels) {
      if (holes.linear(x, y) > 0.5) {
        hole[k] = 1;
        continue;
      }
      const clean = cleans.linear(x, y);
      if (clean === 0) continue;
      const light = (image.data[from] * red + image.data[from + 1] * green + image.data[from + 2] * blue) / 255;
      const found = (light - own.linear(x, y)) * clean;
      detail[k] = found;
      all += Math.abs(found);
      clear += clean;
    }
  }
  const usual = (deviation * (all / detail.length)) / (clear / detail.length + CLEAR);
  const most = bound * usual;
  const kept = creased / Math.max(usual, creased);
  for (let k = 0; k < detail.length; k++) detail[k] = Math.min(Math.max(detail[k], -most), most) * kept;
  return {detail, hole};
}

/** Luma of skin without its detail, (shaded, shaded): means of what is skin. */
function ownShading(crop, mask, skin, {seen, shaded, luma: [red, green, blue]}) {
  const size = crop.width;
  const visible = {width: size, height: size, channels: 1, data: new Float32Array(size * size)};
  for (let k = 0; k < mask.length; k++) {
    if (mask[k]) continue;
    visible.data[k] = (crop.data[3 * k] * red + crop.data[3 * k + 1] * green + crop.data[3 * k + 2] * blue) / 255;
  }
  const light = averaged(visible, seen, seen);
  const halved = (data) => averaged({width: seen, height: seen, channels: 1, data}, shaded, shaded).data;
  let [value, weight] = [halved(light.data.map((v, k) => v * skin[k])), halved(skin)];
  for (let k = 0; k < 2; k++) [value, weight] = [value, weight].map((field) => mean3(field, shaded));
  return value.map((v, k) => v / (weight[k] + CLEAR));
}

/** Means of 3 x 3 of (side, side), the border mirrored at its pixels. */
export function mean3(field, side) {
  const result = new Float32Array(field.length);
  const mirror = (k) => (k < 0 ? -k : k >= side ? 2 * side - 2 - k : k);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      let sum = 0;
      for (let j = -1; j <= 1; j++) {
        const row = mirror(y + j) * side;
        sum += field[row + mirror(x - 1)] + field[row + x] + field[row + mirror(x + 1)];
      }
      result[y * side + x] = sum / 9;
    }
  }
  return result;
}

/** Whether a picture has no colour at all: a network has a tint for every skin. */
function isGrey({data}) {
  for (let k = 0; k < data.length; k += 3) if (data[k] !== data[k + 1] || data[k] !== data[k + 2]) return false;
  return true;
}

/** What sources make of the detail of a box. A pixel lies in four windows, one around each corner of its block. */
class Texture {
  constructor(detail, {width, height}, sources, local, size, moving, {blocks, softened}) {
    Object.assign(this, {detail, width, height, local, blocks});
    this.block = size / blocks;
    const [halves, corners] = [2 * blocks - 3, blocks + 1];
    const [a, b, , c, d] = inverted(local);
    this.shifts = new Int32Array(2 * sources.length); // how far x and y of each window are moved, in whole pixels,
    this.weights = moving ? new Float32Array(8 * sources.length) : null; // and what the pixels around count: 4 in a row, 4 rows
    sources.forEach((source, k) => {
      const dx = ((source % halves) + 2) * (this.block / 2) - (k % corners) * this.block;
      const dy = (Math.floor(source / halves) + 2) * (this.block / 2) - Math.floor(k / corners) * this.block;
      [dx * a + dy * b, dx * c + dy * d].forEach((shift, axis) => {
        const whole = moving ? Math.floor(shift) : rounded(shift);
        this.shifts[2 * k + axis] = whole;
        const at = 8 * k + 4 * axis;
        if (moving) cubic(shift - whole, this.weights.subarray(at, at + 4));
      });
      if (moving) for (let i = 0; i < 4; i++) this.weights[8 * k + i] *= softened;
    });
  }

  /** The detail at a pixel that a window is moved to. */
  moved(x, y, window) {
    const {detail, width, height, weights} = this;
    if (!weights) return detail[y * width + x];
    let sum = 0;
    for (let j = 0; j < 4; j++) {
      const line = Math.min(Math.max(y + j - 1, 0), height - 1) * width;
      let row = 0;
      for (let i = 0; i < 4; i++) row += weights[8 * window + i] * detail[line + Math.min(Math.max(x + i - 1, 0), width - 1)];
      sum += weights[8 * window + 4 + j] * row;
    }
    return sum;
  }

  /** What is copied to a pixel. */
  at(x, y) {
    const {width, height, blocks, block, shifts} = this;
    const [la, lb, lx, lc, ld, ly] = this.local;
    const u = Math.fround((la * x + lb * y + lx + 0.5) / block);
    const v = Math.fround((lc * x + ld * y + ly + 0.5) / block);
    const left = Math.min(Math.max(Math.floor(u), 0), blocks - 1);
    const top = Math.min(Math.max(Math.floor(v), 0), blocks - 1);
    const across = Math.cos((u - left) * (Math.PI / 2)) ** 2;
    const along = Math.cos((v - top) * (Math.PI / 2)) ** 2;
    let [laid, squares] = [0, 0];
    for (let corner = 0; corner < 4; corner++) {
      const [down, right] = [corner >> 1, corner & 1];
      const window = (top + down) * (blocks + 1) + left + right;
      const [fromX, fromY] = [x + shifts[2 * window], y + shifts[2 * window + 1]];
      if (fromX < 0 || fromY < 0 || fromX >= width || fromY >= height) continue;
      const weight = (right ? 1 - across : across) * (down ? 1 - along : along);
      laid += weight * this.moved(fromX, fromY, window);
      squares += weight * weight;
    }
    return laid / Math.sqrt(Math.max(squares, 1e-3));
  }
}

/** Lay shading and copied detail where they have a share. */
function lay(image, {left, top, width, height}, shares, texture, shading, grey, {luma}) {
  const colour = new Float64Array(3);
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      const share = shares[k];
      if (!share) continue;
      const copied = texture.at(x, y);
      shading.smooth(x, y, colour);
      if (grey) colour.fill(colour[0] * luma[0] + colour[1] * luma[1] + colour[2] * luma[2]);
      const to = ((top + y) * image.width + left + x) * image.channels;
      for (let c = 0; c < 3; c++) {
        const painted = Math.min(Math.max(colour[c] + copied, 0), 1) * 255;
        image.data[to + c] = rounded(painted * share + image.data[to + c] * (1 - share));
      }
    }
  }
}

/** How much of the windows of some sources is skin, in [0, 1], on average. */
export function skinOf(skin, sources, {seen, blocks}) {
  const [halves, block] = [2 * blocks - 3, seen / blocks];
  let sum = 0;
  sources.forEach((source) => {
    const left = ((source % halves) + 2) * (block / 2) - block;
    const top = (Math.floor(source / halves) + 2) * (block / 2) - block;
    for (let y = top; y < top + 2 * block; y++) {
      for (let k = y * seen + left, end = k + 2 * block; k < end; k++) sum += skin[k];
    }
  });
  return sum / (sources.length * (2 * block) ** 2);
}

/** The sources and the shading of each face of a video, held from frame to frame as painting.py holds them. */
export class Held {
  /** @param {Constants} constants */
  constructor(constants) {
    this.constants = constants;
    this.plans = new Map();
  }

  /** The plan of a frame for the face of this number, with the sources and the shading that were held for it. */
  steady(number, plan) {
    const {constants} = this;
    const {least, share, fresh, cut} = constants.held;
    const held = this.plans.get(number);
    let steady = plan;
    if (held) {
      const enough = Math.min(least, share * skinOf(plan.skin, plan.sources, constants));
      if (skinOf(plan.skin, held.sources, constants) >= enough) {
        const change = plan.shading.map((v, k) => v - held.shading[k]);
        const apart = change.reduce((sum, v) => sum + Math.abs(v), 0) / change.length;
        const shading = apart <= cut ? held.shading.map((v, k) => v + fresh * change[k]) : plan.shading;
        steady = {...plan, sources: held.sources, shading};
      }
    }
    this.plans.set(number, steady);
    return steady;
  }
}
