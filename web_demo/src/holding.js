// What holds of a face of a video from frame to frame: faceeraser/holding.py, without glasses, with the constants that
// /data/faces.json has of it. Not every frame is asked for a mask and a plan.

import {Held, mean3} from './painting.js';
import {averaged, moved} from './picture.js';

/** @typedef {import('./picture.js').Picture} Picture */
/**
 * @typedef {Object} Answer what was found out of a face in its crop
 * @property {string} choice what was asked for
 * @property {number[][]} points of its parts, in the crop's coordinates
 * @property {Uint8Array} mask
 * @property {Float32Array | null} share
 * @property {import('./painting.js').Plan} plan
 */

/** The answers for each face of a video. */
export class Said {
  /** @param {{said: Object, painting: Object}} known of /data/faces.json */
  constructor({said, painting}) {
    this.constants = said;
    this.sources = new Held(painting);
    this.things = new Map();
  }

  /** Points of the parts of a face, by the matrix to its crop. */
  pointsOf(face, matrix) {
    return this.constants.points.map((k) => moved(matrix, face.mesh[k]));
  }

  /**
   * What holds for a crop of the face of this number: the answer or null, and whether its mask does too.
   * @param {number} number
   * @param {Picture} crop (size, size, 3)
   * @param {string} choice
   * @param {number[][]} points
   * @returns {{answer: Answer | null, covers: boolean}}
   */
  of(number, crop, choice, points) {
    const {every, lit, plan, hidden, moved: most} = this.constants;
    const thing = this.things.get(number);
    if (!thing || thing.age >= every || thing.answer.choice !== choice) return {answer: null, covers: false};
    const now = this.small(crop);
    const {seen, all, light} = compared(now, thing);
    if (seen > plan || light > lit) return {answer: null, covers: false};
    thing.age++;
    const far = Math.max(...points.map(([x, y], k) => Math.hypot(x - thing.answer.points[k][0], y - thing.answer.points[k][1])));
    return {answer: thing.answer, covers: far <= most * crop.width && all <= hidden};
  }

  /** The answer that has just been found, with the sources and the shading that are held for this face. */
  new(number, crop, answer) {
    const held = {...answer, plan: this.sources.steady(number, answer.plan)};
    const mask = {width: crop.width, height: crop.height, channels: 1, data: new Float32Array(answer.mask)};
    const {side} = this.constants;
    this.things.set(number, {answer: held, then: this.small(crop), hidden: averaged(mask, side, side).data, age: 1});
    return held;
  }

  /** The crop, small: a plane for each channel, and the same with what is around each pixel. */
  small(crop) {
    const {side} = this.constants;
    const {data} = averaged(crop, side, side);
    const planes = [0, 1, 2].map((c) => Float32Array.from({length: side * side}, (_, k) => data[3 * k + c]));
    return {planes, around: planes.map((plane) => mean3(plane, side))};
  }
}

/** By how many levels the place differs that differs most, of what is visible and of all; and the mean of what is visible. */
function compared(now, {then, hidden}) {
  let [seen, all, light] = [0, 0, 0];
  for (let c = 0; c < 3; c++) {
    let [sum, count] = [0, 0];
    for (let k = 0; k < hidden.length; k++) {
      const differs = Math.abs(now.around[c][k] - then.around[c][k]);
      all = Math.max(all, differs);
      if (hidden[k]) continue;
      seen = Math.max(seen, differs);
      sum += now.planes[c][k] - then.planes[c][k];
      count++;
    }
    light = Math.max(light, Math.abs(sum) / Math.max(count, 1));
  }
  return {seen, all, light};
}
