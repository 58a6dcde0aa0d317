// What hangs in front of a face, hair, hands, things, is taken out of its mask: faceeraser/occluders.py, with the constants
// that /data/faces.json has of it.

import {averaged, enlarged, scaled} from './picture.js';

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
  const there = enlarged({width: side, height: side, channels: 1, data: front}, size, size).data;
  const bare = mask.map((v, k) => (v && there[k] <= from ? 1 : 0));
  const any = bare.some((v) => v);
  const share = Float32Array.from(bare, (v, k) =>
    v || (any && mask[k] ? Math.min(Math.max((wholly - there[k]) / (wholly - from), 0), 1) : 0));
  return {mask: bare, share};
}
