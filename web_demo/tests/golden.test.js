// The page's arithmetic against the Python side's: GOLDEN is the folder that tests/golden/make_face.py wrote.
//
// Where the two may differ: OpenCV sums in single precision and keeps distances and the Gaussian of 8-bit pictures in fixed
// point, so a pixel in a thousand may be a level apart, and after the logarithms of an effect two.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {test} from 'node:test';

import {apply} from '../src/effects.js';
import {Face, Finder, alignMatrix, faceMask, pasteBack, withCreases} from '../src/faces.js';
import {trimmed} from '../src/occluders.js';
import {Held, paintByPlan, skinOf} from '../src/painting.js';
import {cut} from '../src/picture.js';
import {Tracker} from '../src/tracking.js';

const folder = process.env.GOLDEN;
const {known, cases, video, held} = JSON.parse(readFileSync(join(folder, 'face.json')));
const {effects} = JSON.parse(readFileSync(new URL('../../faceeraser/face/effects.json', import.meta.url)));

function array({file, shape}) {
  const bytes = readFileSync(join(folder, file));
  const data = file.endsWith('.u8') ? new Uint8ClampedArray(bytes)
    : new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  assert.equal(data.length, shape.reduce((a, b) => a * b));
  return data;
}

/** The most two arrays differ by, how many elements differ and their share, and the mean difference. */
function difference(a, b) {
  assert.equal(a.length, b.length);
  let [most, differing, sum] = [0, 0, 0];
  for (let k = 0; k < a.length; k++) {
    const apart = Math.abs(a[k] - b[k]);
    most = Math.max(most, apart);
    differing += apart > 0;
    sum += apart;
  }
  return {most, differing, share: differing / a.length, mean: sum / a.length};
}

const iou = (a, b) => a.filter((v, k) => v && b[k]).length / a.filter((v, k) => v || b[k]).length;

/** The models as they answered Python, and what is left of these answers; what they are given has to be the same. */
function replayed(models) {
  const left = [...models];
  const run = async ([input]) => {
    const {input: expected, outputs} = left.shift();
    const apart = difference(input, array(expected));
    // A level of 8 bits is 1/127.5 for the detector and 1/255 for the mesh.
    assert.ok(apart.most <= 1.01 / 127.5 && apart.mean < 0.01 / 127.5, `input ${JSON.stringify(apart)}`);
    return outputs.map(array);
  };
  return [new Finder(run, run, known), left];
}

test('faces are followed from frame to frame, lost and found', async () => {
  const [finder, left] = replayed(video.models);
  const tracker = new Tracker(finder, video.constants);
  const [count, height, width] = video.frames.shape;
  const frames = array(video.frames);
  for (let k = 0; k < count; k++) {
    const data = frames.subarray(k * width * height * 3, (k + 1) * width * height * 3);
    const followed = await tracker.next({width, height, channels: 3, data}, video.seconds, () => {});
    assert.deepEqual(followed.map(({number}) => number), video.numbers[k], `frame ${k}`);
    followed.forEach(({face: {mesh}}, n) => assert.ok(difference(mesh.flat(), video.faces[k][n].flat()).most < 2e-3));
  }
  assert.equal(left.length, 0);
});

test('the sources and the shading of a face are held for as long as they are skin', () => {
  const steady = new Held(known.painting);
  for (const {number, skin, sources, shading, steady: expected, shaded} of held) {
    const plan = steady.steady(number, {skin: array(skin), sources: array(sources), shading: array(shading)});
    assert.deepEqual(plan.sources, array(expected));
    assert.ok(difference(plan.shading, array(shaded)).most < 1e-6);
  }
});

for (const [name, golden] of Object.entries(cases)) {
  const [height, width] = golden.shape;
  const picture = () => ({width, height, channels: 3, data: array({file: `picture.${name}.u8`, shape: golden.shape})});
  const face = new Face(golden.mesh, 1, known);

  test(`${name}: what the models are given, and the mesh that comes of what they give`, async () => {
    const [finder, left] = replayed(golden.models);
    const image = picture();
    const found = await finder.detect(image);
    assert.equal(found.length, golden.detections.length);
    found.forEach(({points, score}, k) => {
      assert.ok(Math.abs(score - golden.detections[k].score) < 1e-6);
      assert.ok(difference(points.flat(), golden.detections[k].points.flat()).most < 1e-3);
    });
    const faces = [];
    for (const one of found) faces.push(await finder.landmarks(image, one));
    const largest = faces.filter(Boolean).sort((a, b) => b.width - a.width)[0];
    assert.ok(difference(largest.mesh.flat(), golden.mesh.flat()).most < 1e-3);
    assert.ok(difference(largest.eyes.flat(), golden.eyes.flat()).most < 1e-3);
    assert.ok(Math.abs((largest.roll * 180) / Math.PI - golden.roll) < 1e-3);
    const followed = await finder.follow(image, largest);
    assert.ok(difference(followed.mesh.flat(), golden.followed.flat()).most < 1e-3);
    assert.equal(left.length, 0);
  });

  test(`${name}: the crop`, () => {
    const matrix = alignMatrix(face, 256);
    // Python's eyes are means in single precision, which turns the crop by up to a ten thousandth of a degree.
    assert.ok(difference(matrix, golden.matrix.flat()).most < 1e-3);
    for (const [sharp, expected] of [[false, golden.crop], [true, golden.sharp]]) {
      const apart = difference(cut(picture(), matrix, 256, 256, sharp).data, array(expected));
      assert.ok(apart.most <= 1 && apart.share < 0.001, JSON.stringify(apart));
    }
  });

  for (const [parts, expected] of Object.entries(golden.masks)) {
    test(`${name}: the mask of ${parts}`, () => {
      const apart = iou(faceMask(face, 256, parts.split(',')), array(expected));
      assert.ok(apart > 0.9995, `intersection over union ${apart}`);
    });
  }

  test(`${name}: the mask with its creases`, () => {
    const mask = array(Object.values(golden.masks)[0]);
    const crop = {width: 256, height: 256, channels: 3, data: array(golden.lined)};
    const creased = withCreases(mask, crop, face.moved(golden.matrix.flat()));
    const apart = iou(creased, array(golden.creased));
    assert.ok(apart > 0.9995 && iou(mask, creased) < 0.998, `intersection over union ${apart}`);
  });

  test(`${name}: pasted back`, () => {
    const image = picture();
    const mask = array(golden.bare);
    const crop = {width: 256, height: 256, channels: 3, data: array(golden.painted)};
    pasteBack(image, crop, golden.matrix.flat(), mask);
    const apart = difference(image.data, array(golden.pasted));
    assert.ok(apart.most <= 1 && apart.share < 0.001, JSON.stringify(apart));
  });

  const own = () => array({file: `picture.${name}.u8`, shape: golden.shape});
  for (const [how, picture, crop, plan, mask, share, expected] of [
    ['by a plan', own, 'crop', 'plan', 'bare', 'share', 'erased'],
    ['as a frame of a video', own, 'crop', 'plan', 'bare', 'share', 'erased_moving'],
    ['with something in front', own, 'crop', 'plan_fringe', 'bare_fringe', 'share_fringe', 'erased_fringe'],
    ['in grey', () => array(golden.picture_grey), 'crop_grey', 'plan', 'bare', null, 'erased_grey'],
  ]) {
    test(`${name}: painted ${how}`, () => {
      const [data, there] = [picture(), array(golden[expected])];
      const changed = difference(there, data).differing;
      const image = {width, height, channels: 3, data};
      const square = {width: 256, height: 256, channels: 3, data: array(golden[crop])};
      const said = Object.fromEntries(Object.entries(golden[plan]).map(([part, told]) => [part, array(told)]));
      paintByPlan(
        image, array(golden[mask]), square, said, golden.matrix.flat(), known.painting, share && array(golden[share]),
        expected === 'erased_moving',
      );
      assert.ok(changed > 500, `painting changes ${changed} values`);
      const apart = difference(data, there);
      assert.ok(apart.most <= 1 && apart.differing < 0.001 * changed, JSON.stringify({changed, ...apart}));
    });
  }

  test(`${name}: what is in front is taken out of the mask`, () => {
    for (const what of ['', '_fringe']) {
      const found = trimmed(array(golden.whole), 256, array(golden[`front${what}`]), known.occluders);
      assert.ok(iou(found.mask, array(golden[`bare${what}`])) > 0.9995);
      const apart = difference(found.share, array(golden[`share${what}`]));
      assert.ok(apart.mean < 1e-5, JSON.stringify(apart));
    }
    const {skin, sources} = golden.plan;
    assert.ok(Math.abs(skinOf(array(skin), array(sources), known.painting) - golden.skin_of) < 1e-5);
  });

  for (const [effect, expected] of Object.entries(golden.effects)) {
    test(`${name}: ${effect}`, () => {
      const erased = {width, height, channels: 3, data: array(golden.erased)};
      const before = array(golden.erased);
      const there = array(expected);
      apply(effects[effect], picture(), erased, face);
      const changed = difference(there, before).differing;
      assert.ok(changed > 500, `the effect changes ${changed} values`);
      const apart = difference(erased.data, there);
      assert.ok(apart.most <= 2 && apart.differing < 0.002 * changed, JSON.stringify({changed, ...apart}));
    });
  }
}
