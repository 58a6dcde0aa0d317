// Figures of this browser on this device: /?bench=1. A picture that comes with the page is moved about in a frame of a
// camera's size, and goes through everything a camera's frame goes through.

import {Clock} from './eraser.js';

const [WIDTH, HEIGHT] = [640, 480];
const WARM_UP = 5;

/** The middle of some numbers, and the value that a share of them does not exceed. */
function quantile(values, share) {
  return [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))];
}

/**
 * Time every step of a number of frames.
 * @param {import('./eraser.js').Eraser} eraser
 * @param {ImageBitmap} picture that has a face in it
 * @param {import('./eraser.js').Choice} choice
 * @param {number} frames
 * @param {(before: HTMLCanvasElement, after: ImageData) => void} show
 * @returns {Promise<Object>} fps, and of every step `mean_ms` over all frames, `median_ms` and `p90_ms` over those that had
 *   it, and how many had it (`n`)
 */
export async function bench(eraser, picture, choice, frames, show) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [WIDTH, HEIGHT];
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const taken = [];
  let began = 0;
  let seen = 0;
  eraser.begin();
  for (let k = -WARM_UP; k < frames; k++) {
    if (k === 0) began = performance.now();
    // A head that moves by a few pixels between two frames.
    const [dx, dy] = [12 * Math.sin(k / 5), 8 * Math.cos(k / 7)];
    context.drawImage(picture, (WIDTH - HEIGHT) / 2 + dx, dy, HEIGHT, HEIGHT);
    const clock = new Clock();
    const frame = context.getImageData(0, 0, WIDTH, HEIGHT);
    const image = {width: WIDTH, height: HEIGHT, channels: 4, data: frame.data};
    clock.tick('grab');
    const followed = await eraser.follow(image, 1 / 25, clock);
    const [faces, numbers] = ['face', 'number'].map((what) => followed.map((one) => one[what]));
    const erased = await eraser.erase(image, faces, choice, clock, numbers);
    show(canvas, new ImageData(erased.data, WIDTH, HEIGHT));
    clock.tick('show');
    if (k >= 0) {
      taken.push(clock.steps);
      seen += faces.length > 0;
    }
    // So that the page stays alive, and what is drawn is seen.
    await new Promise((resume) => setTimeout(resume));
  }
  const seconds = (performance.now() - began) / 1000;
  const steps = {};
  for (const name of ['grab', 'find', 'landmarks', 'mask', 'cut', 'model', 'paste', 'effect', 'show']) {
    const values = taken.map((one) => one[name]).filter((value) => value !== undefined);
    if (!values.length) continue;
    steps[name] = {
      n: values.length, mean_ms: values.reduce((a, b) => a + b) / frames,
      median_ms: quantile(values, 0.5), p90_ms: quantile(values, 0.9),
    };
  }
  return {frames, frames_with_face: seen, width: WIDTH, height: HEIGHT, fps: frames / seconds, steps};
}
