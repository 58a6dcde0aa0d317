// Follow faces from frame to frame: faceeraser/face/tracking.py, whose constants /data/tracking.json has.

import {Face} from './faces.js';

const JUMP = 0.75; // eye distances between two frames: no face moves so far, so the filter starts anew

/** How much of a new value an exponential low pass takes. */
const share = (cutoff, seconds) => 1 / (1 + 1 / (2 * Math.PI * cutoff * seconds));

/**
 * The 1-Euro filter on a mesh (Casiez, Roussel and Vogel 2012): a low pass that opens with speed, so that a face at rest does
 * not tremble and one that moves does not trail. Speeds are in eye distances a second.
 */
export class OneEuro {
  /** @param {{min_cutoff_hz: number, beta: number, derivative_cutoff_hz: number}} constants */
  constructor(constants) {
    this.constants = constants;
    this.last = null;
    this.speed = null;
  }

  /** The mesh, smoothed. `seconds` since the last call; the first mesh comes back as it is. */
  smooth(mesh, eyeDistance, seconds) {
    const {min_cutoff_hz: least, beta, derivative_cutoff_hz: ofSpeed} = this.constants;
    if (!this.last) {
      this.last = mesh.map((point) => [...point]);
      this.speed = mesh.map(() => [0, 0]);
      return mesh;
    }
    const gain = share(ofSpeed, seconds);
    mesh.forEach((point, k) => {
      for (const axis of [0, 1]) {
        const step = point[axis] - this.last[k][axis];
        this.speed[k][axis] += gain * (step / (eyeDistance * seconds) - this.speed[k][axis]);
        this.last[k][axis] += share(least + beta * Math.abs(this.speed[k][axis]), seconds) * step;
      }
    });
    return this.last.map((point) => [...point]);
  }
}

/** @typedef {{face: Face, number: number}} Tracked a face of a frame; the number stays the same for as long as it is followed */

/** Faces from frame to frame; the detector rests while they are followed. */
export class Tracker {
  /**
   * @param {import('./faces.js').Finder} finder
   * @param {Object} constants of tracking.json
   */
  constructor(finder, constants) {
    this.finder = finder;
    this.constants = constants;
    this.frames = 0;
    this.tracks = [];
    this.since = 0;
    this.numbers = 0;
  }

  /**
   * The faces of the next frame, in the order in which they came in.
   * @param {import('./picture.js').Picture} image
   * @param {number} seconds since the last frame
   * @param {(step: string) => void} clock called with 'landmarks' or 'find' after each has been done
   * @returns {Promise<Tracked[]>} smoothed
   */
  async next(image, seconds, clock) {
    this.frames += 1;
    const kept = [];
    for (const track of this.tracks) {
      const seen = await this.finder.follow(image, track.seen);
      // Two that have come to follow the same face are one: the older stays.
      if (seen && !kept.some((other) => same(seen, other.seen))) kept.push(this.moved(track, seen, seconds));
    }
    const lost = kept.length < this.tracks.length;
    clock('landmarks');
    this.since += 1;
    if (lost || !kept.length || this.since >= this.constants.detect_every) {
      // Without a face every frame is looked at, or one would show for a while; the closer look, which costs as much as the
      // rest of a frame, is for the first frame of it and then now and then.
      const closer = lost || this.since >= this.constants.detect_every || this.frames === 1;
      const found = await this.finder.detect(image, closer && !kept.length);
      if (closer) this.since = 0;
      clock('find');
      for (const one of found) {
        if (kept.some((track) => covers(track.seen, one))) continue;
        const seen = await this.finder.landmarks(image, one);
        if (seen && !kept.some((track) => same(seen, track.seen))) kept.push(this.begun(seen, seconds));
      }
      clock('landmarks');
    }
    this.tracks = kept;
    return kept.map(({face, number}) => ({face, number}));
  }

  begun(seen, seconds) {
    this.numbers += 1;
    const filter = new OneEuro(this.constants);
    filter.smooth(seen.mesh, seen.eyeDistance, seconds);
    return {face: seen, number: this.numbers, seen, filter};
  }

  moved(track, seen, seconds) {
    const steps = seen.mesh.flatMap((point, k) => point.map((value, axis) => Math.abs(value - track.seen.mesh[k][axis])));
    if (steps.sort((a, b) => a - b)[steps.length >> 1] > JUMP * seen.eyeDistance) return this.begun(seen, seconds);
    const mesh = track.filter.smooth(seen.mesh, seen.eyeDistance, seconds);
    return {...track, face: new Face(mesh, seen.score, seen.known), seen};
  }
}

function middle({mesh, known}) {
  const points = known.oval.map((k) => mesh[k]);
  return [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    return (Math.min(...values) + Math.max(...values)) / 2;
  });
}

const apart = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);

/** Whether two meshes are of one face: their middles are nearer than a face is wide. */
const same = (one, other) => apart(middle(one), middle(other)) < 0.4 * Math.max(one.width, other.width);

/** Whether what is detected is a face that is followed already: the middle of its box lies well inside it. */
function covers(face, {points: [low, high]}) {
  return apart(middle(face), [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2]) < 0.4 * face.width;
}
