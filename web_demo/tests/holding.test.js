// What holds from frame to frame, on crops that change or do not. The constants are those that faceeraser/holding.py has.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {test} from 'node:test';

import {Said} from '../src/holding.js';

const {known} = JSON.parse(readFileSync(join(process.env.GOLDEN, 'face.json'), 'utf8'));
const size = 256;
const {seen, shaded, blocks} = known.painting;
const points = known.said.points.map((_, k) => [60 + (k % 12) * 12, 80 + k]);

/** A grey crop; `change` alters a pixel's level at x, y. */
function cropOf(change = () => 0) {
  const data = new Uint8ClampedArray(3 * size * size);
  for (let k = 0; k < size * size; k++) data.fill(120 + change(k % size, Math.floor(k / size)), 3 * k, 3 * k + 3);
  return {width: size, height: size, channels: 3, data};
}

/** A face that has just been looked at: its mask hides the middle. */
function begun() {
  const said = new Said(known);
  const mask = new Uint8Array(size * size).map((_, k) => (Math.abs((k % size) - 128) < 40 && Math.abs(Math.floor(k / size) - 128) < 40 ? 1 : 0));
  const plan = {
    skin: new Float32Array(seen * seen).fill(1),
    shading: new Float32Array(3 * shaded * shaded).fill(0.5),
    sources: new Float32Array((blocks + 1) ** 2).fill(100),
  };
  said.new(1, cropOf(), {choice: 'eyes', points, mask, share: null, plan});
  return said;
}

test('an answer holds for some frames of a face that stays as it is', () => {
  const said = begun();
  for (let k = 1; k < known.said.every; k++) {
    const {answer, covers} = said.of(1, cropOf(), 'eyes', points);
    assert.ok(answer && covers, `frame ${k}`);
  }
  assert.equal(said.of(1, cropOf(), 'eyes', points).answer, null);
});

test('another face and another choice have none', () => {
  const said = begun();
  assert.equal(said.of(2, cropOf(), 'eyes', points).answer, null);
  assert.equal(said.of(1, cropOf(), 'eyes,nose', points).answer, null);
});

test('it ends where a visible place changes, or the light', () => {
  const corner = (x, y) => (x < 40 && y < 40 ? 3 * known.said.plan : 0);
  assert.equal(begun().of(1, cropOf(corner), 'eyes', points).answer, null);
  assert.equal(begun().of(1, cropOf(() => 2 * known.said.lit), 'eyes', points).answer, null);
  assert.ok(begun().of(1, cropOf((x, y) => (x < 40 && y < 40 ? 2 : 0)), 'eyes', points).covers, 'a codec flickers');
});

test('the mask is made again where a part moves or what it hides changes, and the plan holds', () => {
  const far = points.map(([x, y]) => [x + 2 * known.said.moved * size, y]);
  const blink = (x, y) => (Math.abs(x - 128) < 20 && Math.abs(y - 128) < 20 ? 2 * known.said.hidden : 0);
  for (const {answer, covers} of [begun().of(1, cropOf(), 'eyes', far), begun().of(1, cropOf(blink), 'eyes', points)]) {
    assert.ok(answer && !covers);
  }
});
