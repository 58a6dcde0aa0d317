// What hangs in front of a face, hair, hands, things, is taken out of its mask: faceeraser/face/occluders.py, with the constants
// that /data/faces.json has of it.

import {Sampled} from './painting.js';
import {averaged, scaled} from './picture.js';

/** @typedef {import('./picture.js').Picture} Picture */
/**
 * @typedef {Object} Trimmed
 * @property {Uint8Array} mask (size, size), 1 = erase: where nothing is in front
 * @property {Float32Array} share (size, size) in [0, 1] of a pixel that what is painted has: 1 in the mask, less and less in
 *   what the mask has lost, 0 where something is surely in front
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
 * @param {{side: number, in_front: number, wholly: number}} constants
 * @returns {Trimmed}
 */
export function trimmed(mask, size, front, {side, in_front: from, wholly}) {
  const there = new Sampled(front, side, [1, 0, 0, 0, 1, 0], size);
  const bare = new Uint8Array(mask.length);
  const share = new Float32Array(mask.length);
  let any = false;
  for (let y = 0, k = 0; y < size; y++) {
    for (let x = 0; x < size; x++, k++) {
      if (!mask[k]) continue;
      const sure = there.linear(x, y);
      bare[k] = sure <= from ? 1 : 0;
      share[k] = bare[k] ? 1 : Math.max((wholly - sure) / (wholly - from), 0);
      any ||= bare[k] === 1;
    }
  }
  if (!any) share.fill(0);
  return {mask: bare, share};
}
