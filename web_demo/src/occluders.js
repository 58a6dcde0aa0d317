// What hangs in front of a face, hair, hands, things, is taken out of its mask, whose edge is soft: faceeraser/face/occluders.py,
// with the constants that /data/faces.json has of it.

import {Sampled} from './painting.js';
import {averaged, depths, reached, scaled, where} from './picture.js';

/** @typedef {import('./picture.js').Picture} Picture */
/**
 * @typedef {Object} Trimmed
 * @property {Uint8Array} mask (size, size), 1 = erase: where nothing is in front
 * @property {Float32Array} share (size, size) in [0, 1] of a pixel that what is painted has: 1 in the mask, less and less in
 *   what the mask has lost and beside it, 0 where something is surely in front
 */

/**
 * What the network for occluders says of a crop.
 * @param {import('./faces.js').Run} run side x side x 3 in [0, 1], to side x side
 * @param {Picture} crop (size, size, 3) of 8 bits
 * @param {{side: number}} constants
 * @returns {Promise<Float32Array>} (side, side): how surely each pixel is in front of the face
 */
export async function inFront(run, crop, {side}) {
  const small = crop.width === side ? crop : averaged(crop, side, side);
  return (await run([scaled(small, Math.fround(1 / 255))]))[0];
}

/**
 * A mask without what is in front of it, and how much is painted on that.
 * @param {Uint8Array} mask (size, size), 1 = erase
 * @param {number} size
 * @param {Float32Array} front of `inFront`, for the same crop
 * @param {{side: number, in_front: number, wholly: number, fades: number}} constants
 * @returns {Trimmed}
 */
export function trimmed(mask, size, front, {side, in_front: from, wholly, fades}) {
  const there = new Sampled(reachingIn(front, mask, size, side, from), side, [1, 0, 0, 0, 1, 0], size);
  const sure = new Float32Array(mask.length);
  for (let y = 0, k = 0; y < size; y++) for (let x = 0; x < size; x++, k++) sure[k] = there.linear(x, y);
  const bare = mask.map((on, k) => (on && sure[k] <= from ? 1 : 0));
  const share = new Float32Array(mask.length);
  if (!bare.includes(1)) return {mask: bare, share};
  const away = depths(bare.map((on) => 1 - on), size, size);
  for (let k = 0; k < share.length; k++) {
    if (bare[k]) share[k] = 1;
    else if (mask[k]) share[k] = Math.max((wholly - sure[k]) / (wholly - from), 0);
    else share[k] = Math.max(1 - away[k] / (fades * size), 0) * Math.max(1 - sure[k] / from, 0);
  }
  return {mask: bare, share};
}

/** What is in front, without what lies wholly inside the mask: a highlight, a nostril or a mark is no occluder. */
function reachingIn(front, mask, size, side, from) {
  const covered = averaged({width: size, height: size, channels: 1, data: new Float32Array(mask)}, side, side).data;
  const whole = reached(where(front, (sure) => sure > from), side, (k) => covered[k] < 0.5);
  return front.map((sure, k) => (sure > from && !whole[k] ? 0 : sure));
}
