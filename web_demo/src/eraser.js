// From a picture to the picture without the parts of its faces: what `faceeraser erase` and `faceeraser effect` do.

import {apply} from './effects.js';
import {Finder, alignMatrix, faceMask, pasteBack, withCreases} from './faces.js';
import {Said} from './holding.js';
import {inFront, trimmed} from './occluders.js';
import {paintByPlan} from './painting.js';
import {cut, scaled} from './picture.js';
import {Tracker} from './tracking.js';

/** @typedef {import('./picture.js').Picture} Picture */
/** @typedef {{parts: string[], effect: string}} Choice which parts to erase, and an effect's name or '' */

/** Adds up where the milliseconds go, by step. */
export class Clock {
  constructor() {
    this.steps = {};
    this.last = performance.now();
    this.tick = this.tick.bind(this);
  }

  /** What has passed since the last call was `step`. */
  tick(step) {
    const now = performance.now();
    this.steps[step] = (this.steps[step] ?? 0) + now - this.last;
    this.last = now;
  }
}

/** Erases faces in pictures, and in frames that follow each other. */
export class Eraser {
  /**
   * @param {import('./engine.js').Engine} engine
   * @param {{faces: Object, effects: Object, tracking: Object}} data what stands in faces.json, effects.json, tracking.json
   */
  constructor(engine, data) {
    this.engine = engine;
    this.effects = data.effects.effects;
    this.constants = data.tracking;
    this.known = data.faces;
    this.occluders = data.faces.occluders;
    this.finder = new Finder(engine.detector, engine.landmarker, data.faces);
    this.parts = Object.keys(data.faces.polygons);
    this.begin();
  }

  /** Forget the faces that were followed: the next frame is another video's. */
  begin() {
    this.tracker = new Tracker(this.finder, this.constants);
    this.said = new Said(this.known);
  }

  /**
   * The faces of a picture, the largest first.
   * @param {Picture} image
   * @param {Clock} clock
   */
  async find(image, clock) {
    const found = await this.finder.detect(image);
    clock.tick('find');
    const faces = [];
    for (const one of found) {
      const face = await this.finder.landmarks(image, one);
      if (face) faces.push(face);
    }
    clock.tick('landmarks');
    return faces.sort((a, b) => b.width - a.width);
  }

  /**
   * The faces of the next frame, which comes `seconds` after the last one.
   * @returns {Promise<import('./tracking.js').Tracked[]>}
   */
  follow(image, seconds, clock) {
    return this.tracker.next(image, seconds, clock.tick);
  }

  /**
   * Erase parts of faces, and put an effect's elements on them.
   * @param {Picture} image RGBA
   * @param {import('./faces.js').Face[]} faces
   * @param {Choice} choice with an effect all parts are erased
   * @param {Clock} clock
   * @param {number[]} numbers in a video, the number of each face: what holds of it is held from frame to frame
   * @returns {Promise<Picture>} RGBA; pixels outside the masks are the picture's own
   */
  async erase(image, faces, {parts, effect}, clock, numbers = []) {
    const erased = {...image, data: new Uint8ClampedArray(image.data)};
    const glasses = parts.filter((part) => part === 'glasses');
    for (const [k, face] of faces.entries()) {
      await this.eraseFace(erased, face, effect ? [...this.parts, ...glasses] : parts, clock, numbers[k]);
    }
    if (effect) for (const face of faces) apply(this.effects[effect], image, erased, face);
    clock.tick('effect');
    return erased;
  }

  /** @param {number | undefined} number of the face, in a video */
  async eraseFace(erased, face, parts, clock, number) {
    const {size, plans} = this.engine;
    const matrix = alignMatrix(face, size);
    const crop = cut(erased, matrix, size, size, !plans); // nothing of it is shown then, and a plan sees half of its pixels
    clock.tick('cut');
    const moving = number !== undefined;
    const [choice, points] = [parts.join(), this.said.pointsOf(face, matrix)];
    let {answer, covers} = moving ? this.said.of(number, crop, choice, points) : {answer: null, covers: false};
    const {mask, share} = covers ? answer : await this.maskOf(face, crop, parts, moving);
    clock.tick('mask');
    if (!answer) {
      const plan = await this.engine.eraser(scaled(crop, 1 / 255), new Float32Array(mask));
      answer = {choice, points, mask, share, plan};
      if (moving && plans) answer = this.said.new(number, crop, answer);
      clock.tick('model');
    }
    if (plans) {
      paintByPlan(erased, mask, crop, answer.plan, matrix, this.known.painting, share, moving);
    } else {
      mask.forEach((there, k) => {
        if (there) for (let c = 3 * k; c < 3 * k + 3; c++) crop.data[c] = answer.plan.erased[c] * 255;
      });
      pasteBack(erased, crop, matrix, mask);
    }
    clock.tick('paste');
  }

  /**
   * What is erased of a face at last, in its crop's coordinates: nothing changes the mask after this.
   * @param {import('./faces.js').Face} face
   * @param {Picture} crop (size, size, 3)
   * @param {string[]} parts
   * @param {boolean} moving of a video, in which creases would come and go
   * @returns {Promise<import('./occluders.js').Trimmed>}
   */
  async maskOf(face, crop, parts, moving = false) {
    let mask = faceMask(face, crop.width, parts);
    const whole = this.parts.every((part) => parts.includes(part));
    if (whole && !moving) mask = withCreases(mask, crop, face.moved(alignMatrix(face, crop.width)));
    return trimmed(mask, crop.width, await inFront(this.engine.occluder, crop, this.occluders), this.occluders);
  }
}
