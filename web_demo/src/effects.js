// Effects on an erased face: faceeraser/face/effects.py with its fast blend, step by step. What an effect pastes and where stands
// in faceeraser/face/effects.json, which the page loads.

import {averaged, blank, blurred, bounds, enlarged, fillPolygon, grown, moved, warp} from './picture.js';
import {partsMap, rimDepths} from './faces.js';

/** @typedef {import('./picture.js').Picture} Picture */
/** @typedef {import('./faces.js').Face} Face */

const DARK = 8; // levels that are added before a logarithm is taken: noise in black is no light
// How much a piece may be lit in all, and how far at any place from the median along its border.
const MOST_LIGHT = 0.25;
const SPREAD = 0.08;
const SMALLEST_SIDE = 16;

/** The corners of the convex hull of a mask's pixels (Andrew's monotone chain). */
function hull(mask, width, height) {
  const points = [];
  for (let x = 0; x < width; x++) {
    let [first, last] = [-1, -1];
    for (let y = 0; y < height; y++) {
      if (!mask[y * width + x]) continue;
      if (first < 0) first = y;
      last = y;
    }
    if (first >= 0) points.push([x, first], [x, last]);
  }
  const cross = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const half = (list) => {
    const chain = [];
    for (const point of list) {
      while (chain.length > 1 && cross(chain.at(-2), chain.at(-1), point) <= 0) chain.pop();
      chain.push(point);
    }
    return chain.slice(0, -1);
  };
  return [...half(points), ...half(points.reverse())];
}

/**
 * Where a piece of a face is, in the face's coordinates; brows are left out of the eyes' pieces and the other way round.
 * @param {Face} face
 * @param {string} piece
 * @returns {Uint8Array}
 */
export function pieceMask(face, piece, width, height) {
  const {pieces, piece_dilation: dilation} = face.known;
  const [parts, side] = pieces[piece];
  const mask = partsMap(face, width, height, parts, dilation);
  if (piece === 'face') {
    if (bounds(mask, width, height)) fillPolygon(mask, width, height, hull(mask, width, height), 1, true);
    return mask;
  }
  const other = {eyes: 'brows', brows: 'eyes'}[parts[0]];
  if (other) {
    // A border that ran through the other would give its colour to all that is pasted.
    const away = partsMap(face, width, height, [other], dilation, 0.5);
    away.forEach((there, k) => (mask[k] &= 1 - there));
  }
  if (side) {
    const [[ax, ay], [bx, by]] = face.eyes;
    const [dx, dy, mx, my] = [bx - ax, by - ay, (ax + bx) / 2, (ay + by) / 2];
    for (let y = 0, k = 0; y < height; y++) {
      for (let x = 0; x < width; x++, k++) if (Math.sign((x - mx) * dx + (y - my) * dy) !== side) mask[k] = 0;
    }
  }
  return mask;
}

/** The matrix that brings what is centred on `centre` to an element's place, `scale` times as large. */
function place(element, centre, face) {
  const [[ax, ay], [bx, by]] = face.eyes;
  const frame = [bx - ax, ay - by, (ax + bx) / 2, by - ay, bx - ax, (ay + by) / 2];
  const to = 'landmark' in element ? face.mesh[element.landmark] : 'to' in element ? moved(frame, element.to) : centre;
  const shift = moved([frame[0], frame[1], 0, frame[3], frame[4], 0], element.move ?? [0, 0]);
  const turn = ((element.angle ?? 0) * Math.PI) / 180;
  const scale = element.scale ?? 1;
  const [c, s] = [scale * Math.cos(turn), scale * Math.sin(turn)];
  const [x, y] = [to[0] + shift[0], to[1] + shift[1]];
  return [c, -s, x - c * centre[0] + s * centre[1], s, c, y - s * centre[0] - c * centre[1]];
}

/**
 * Lay `source` over `target` where `mask`: what their light differs by on the mask's border is spread inside by averaging
 * (effects.fast_clone). All three have the size of the window that the mask needs, with a rim of 3 pixels or the picture's
 * border around it.
 * @param {Picture} source RGB
 * @param {Uint8Array} mask
 * @param {Picture} target RGB, changed
 */
export function fastClone(source, mask, target) {
  const {width, height} = source;
  const ring = grown(mask, width, height);
  // Of each pixel what the light differs by in three colours, and a weight that says whether it is known.
  let level = blank(width, height, 4, true);
  for (let k = 0; k < mask.length; k++) {
    if (!ring[k] || mask[k]) continue;
    for (let c = 0; c < 3; c++) level.data[4 * k + c] = lightBetween(source, target, 3 * k + c);
    level.data[4 * k + 3] = 1;
  }
  const levels = [level];
  while (Math.min(level.width, level.height) > 2) {
    level = averaged(level, (level.width + 1) >> 1, (level.height + 1) >> 1);
    levels.push(level);
  }
  let spread = blank(level.width, level.height, 3, true);
  for (let k = 0; k < level.width * level.height; k++) {
    for (let c = 0; c < 3; c++) spread.data[3 * k + c] = level.data[4 * k + c] / Math.max(level.data[4 * k + 3], 1e-6);
  }
  for (const {width: w, height: h, data} of levels.slice(0, -1).reverse()) {
    spread = enlarged(spread, w, h);
    const hold = (into) => {
      for (let k = 0; k < w * h; k++) {
        if (data[4 * k + 3] > 0) for (let c = 0; c < 3; c++) into.data[3 * k + c] = data[4 * k + c] / data[4 * k + 3];
      }
    };
    hold(spread);
    for (let sweep = 0; sweep < 2; sweep++) {
      spread = blurred(spread);
      hold(spread);
    }
  }
  const away = rimDepths(mask, width, height);
  const middle = borderLight(source, mask, target);
  const rise = Math.max(3, 0.35 * away.reduce((most, depth) => Math.max(most, depth), 0));
  for (let k = 0; k < mask.length; k++) {
    const weight = Math.min(1, away[k] / rise);
    if (weight <= 0) continue;
    for (let c = 0; c < 3; c++) {
      const light = Math.min(Math.max(spread.data[3 * k + c], middle[c] - SPREAD), middle[c] + SPREAD);
      const laid = (source.data[3 * k + c] + DARK) * Math.exp(light) - DARK;
      const under = target.data[3 * k + c];
      target.data[3 * k + c] = Math.floor(under + (laid - under) * weight + 0.5);
    }
  }
}

/** What to add to the logarithm of a source's value for the target's. */
function lightBetween(source, target, at) {
  return Math.log(target.data[at] + DARK) - Math.log(source.data[at] + DARK);
}

/** Of each colour the median of that along a mask's inner border. */
function borderLight(source, mask, target) {
  const {width, height} = source;
  const bare = grown(mask.map((there) => 1 - there), width, height);
  const rim = [...mask.keys()].filter((k) => mask[k] && bare[k]);
  return [0, 1, 2].map((c) => {
    const found = rim.map((k) => lightBetween(source, target, 3 * k + c)).sort((a, b) => a - b);
    const half = found.length / 2;
    const median = (found[Math.ceil(half) - 1] + found[Math.floor(half)]) / 2;
    return Math.min(Math.max(median, -MOST_LIGHT), MOST_LIGHT);
  });
}

/** A window of a picture as RGB. */
function window(image, left, top, width, height) {
  const result = blank(width, height, 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = ((top + y) * image.width + left + x) * image.channels;
      for (let c = 0; c < 3; c++) result.data[to++] = image.data[from + c];
    }
  }
  return result;
}

/** Put a window back. */
function putBack(image, left, top, piece) {
  for (let y = 0, from = 0; y < piece.height; y++) {
    for (let x = 0; x < piece.width; x++) {
      const to = ((top + y) * image.width + left + x) * image.channels;
      for (let c = 0; c < 3; c++) image.data[to + c] = piece.data[from++];
    }
  }
}

/**
 * An effect's elements on one face of an erased picture.
 * @param {{elements: Object[]}} effect of effects.json; its elements are pieces
 * @param {Picture} image the photograph, that pieces are taken from
 * @param {Picture} erased the same with the face's parts erased; changed
 * @param {Face} face
 */
export function apply(effect, image, erased, face) {
  const reach = 0.6 * face.eyeDistance;
  const xs = face.mesh.map(([x]) => x);
  const ys = face.mesh.map(([, y]) => y);
  const left = Math.max(0, Math.floor(Math.min(...xs) - reach));
  const top = Math.max(0, Math.floor(Math.min(...ys) - reach));
  const width = Math.min(image.width, Math.ceil(Math.max(...xs) + reach)) - left;
  const height = Math.min(image.height, Math.ceil(Math.max(...ys) + reach)) - top;
  if (width < SMALLEST_SIDE || height < SMALLEST_SIDE) return;
  const local = face.moved([1, 0, -left, 0, 1, -top]);
  const photograph = window(image, left, top, width, height);
  for (const element of effect.elements) {
    const mask = pieceMask(local, element.piece, width, height);
    const box = bounds(mask, width, height);
    if (!box) continue;
    const matrix = place(element, [box.left + (box.width - 1) / 2, box.top + (box.height - 1) / 2], local);
    const there = warp({width, height, channels: 1, data: new Uint8ClampedArray(mask)}, matrix, width, height, 'nearest', {
      zero: true,
    }).data;
    const near = bounds(there, width, height);
    if (!near) continue;
    const [x, y] = [Math.max(0, near.left - 3), Math.max(0, near.top - 3)];
    const w = Math.min(width, near.left + near.width + 3) - x;
    const h = Math.min(height, near.top + near.height + 3) - y;
    const [a, b, mx, c, d, my] = matrix;
    const source = warp(photograph, [a, b, mx - x, c, d, my - y], w, h, 'linear');
    const within = new Uint8Array(w * h);
    for (let row = 0; row < h; row++) within.set(there.subarray((y + row) * width + x, (y + row) * width + x + w), row * w);
    const target = window(erased, left + x, top + y, w, h);
    fastClone(source, within, target);
    putBack(erased, left + x, top + y, target);
  }
}
