// The four models on LiteRT.js: WebAssembly with threads where the page is isolated, or WebGPU where it is asked for.

import {Tensor, loadAndCompile, loadLiteRt, supportsFeature, unloadLiteRt} from './litert/core.js';

const WASM = 'litert/wasm/';
// Texture is copied by coordinates, for which half precision has too few bits.
const GPU = {accelerator: 'webgpu', gpuOptions: {precision: 'fp32'}};
const MOST_THREADS = 4; // beyond, these small models wait for each other more than they compute

/**
 * @typedef {Object} Engine
 * @property {import('./faces.js').Run} detector
 * @property {import('./faces.js').Run} landmarker
 * @property {import('./faces.js').Run} occluder see occluders.js
 * @property {(crop: Float32Array, mask: Float32Array) => Promise<Object<string, Float32Array>>} eraser (size, size, 3) and
 *   (size, size, 1) in [0, 1], 1 = erase, to what its card calls its outputs: `skin`, `shading` and `sources` of a file that
 *   plans, `erased` (size, size, 3) of one that paints
 * @property {number} size edge length of the crop
 * @property {boolean} plans whether the eraser plans, or else paints
 * @property {{runs: 'webgpu' | 'wasm', threads: number, why: string}} told what runs the eraser; `why` is a sentence for the
 *   reader when that is not what was asked for
 */

/**
 * Load the runtime and the models.
 * @param {Object} card of the eraser, /data/model.json
 * @param {boolean} webgpu whether to try WebGPU first
 * @returns {Promise<Engine>}
 */
export async function open(card, webgpu = false) {
  const files = ['face_detection_short_range.tflite', 'face_landmark.tflite', 'occlusion.tflite', 'model.tflite'];
  const bytes = await Promise.all(files.map((file) => fetched(`data/${file}`)));
  let why = '';
  if (webgpu) {
    try {
      return await load(card, bytes, true, '');
    } catch (error) {
      why = `WebGPU cannot be used here (${firstLine(error)}); WebAssembly runs instead.`;
      unloadLiteRt();
    }
  }
  return load(card, bytes, false, why);
}

async function load(card, [detector, landmarker, occluder, eraser], webgpu, why) {
  let threads = 1;
  if (webgpu) {
    if (!navigator.gpu || !(await navigator.gpu.requestAdapter())) throw new Error('the browser offers no GPU');
    // With JSPI the operators that a GPU does not take may run beside it.
    await loadLiteRt(WASM, {jspi: await supportsFeature('jspi')});
  } else {
    const able = globalThis.crossOriginIsolated && (await supportsFeature('threads')) && (await supportsFeature('relaxedSimd'));
    if (able) threads = Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1);
    else why ||= 'One thread only: the page is not cross-origin isolated, or this browser lacks threads or relaxed SIMD.';
    await loadLiteRt(WASM, {threads: able});
  }
  const wasm = {accelerator: 'wasm', cpuOptions: {numThreads: threads}};
  const model = await loadAndCompile(eraser, webgpu ? GPU : wasm);
  if (webgpu && model.options.accelerator !== 'webgpu') throw new Error('the model has operators that the GPU does not take');
  if (webgpu && !model.isFullyAccelerated) why = 'A part of the network runs beside the GPU, on the processor.';
  const taken = named(model.getInputDetails(), card.inputs);
  const given = named(model.getOutputDetails(), card.outputs);
  const ran = (compiled) => {
    const run = runner(compiled);
    return async (crop, mask) => {
      const outputs = await run(taken.map((name) => ({image: crop, mask})[name]));
      return Object.fromEntries(given.map((name, k) => [name, outputs[k]]));
    };
  };
  if (webgpu && !(await agree(ran(model), ran(await loadAndCompile(eraser, wasm)), card.resolution))) {
    throw new Error('the GPU does not compute what the processor computes');
  }
  return {
    detector: runner(await loadAndCompile(detector, wasm)),
    landmarker: runner(await loadAndCompile(landmarker, wasm)),
    occluder: runner(await loadAndCompile(occluder, wasm)),
    eraser: ran(model),
    size: card.resolution,
    plans: card.outputs.some(({name}) => name === 'sources'),
    told: {runs: webgpu ? 'webgpu' : 'wasm', threads, why},
  };
}

// Of a test picture, what two runtimes must have the same: so much of skin to a tenth, of pictures to two levels of 255, and of
// sources, which may be others that are as good, but not all of them.
const ALIKE = {skin: [0.1, 0.95], shading: [2 / 255, 0.95], erased: [4 / 255, 0.95], sources: [0.5, 0.5]};

/** Whether two runs of a model say the same of a picture that has something to copy everywhere, and a hole in its middle. */
async function agree(one, other, size) {
  const crop = new Float32Array(3 * size * size);
  const mask = new Float32Array(size * size);
  for (let y = 0, k = 0, seed = 1; y < size; y++) {
    for (let x = 0; x < size; x++, k++) {
      seed = (seed * 16807) % 2147483647;
      const light = 0.6 + 0.08 * (Math.sin(0.13 * x + 0.05 * y) + Math.sin(0.07 * x - 0.11 * y)) + 0.1 * (seed / 2147483647 - 0.5);
      crop.set([light, 0.8 * light, 0.7 * light], 3 * k); // of skin's colour
      mask[k] = Math.abs(2 * x - size) < size / 2 && Math.abs(2 * y - size) < size / 2 ? 1 : 0;
    }
  }
  const [first, second] = [await one(crop, mask), await other(crop, mask)];
  return Object.entries(first).every(([name, values]) => {
    const [most, share] = ALIKE[name];
    return values.filter((value, k) => Math.abs(value - second[name][k]) <= most).length >= share * values.length;
  });
}

/** What the card calls each of the eraser's inputs, or outputs: no two of one side have the same shape. */
function named(details, ports) {
  return details.map(({shape, dtype}) => {
    const port = ports.find((one) => String(one.shape) === String(Array.from(shape)) && one.dtype === dtype);
    if (!port) throw new Error(`the model has ${dtype} ${Array.from(shape)}, of which its card says nothing`);
    return port.name;
  });
}

/** @returns {import('./faces.js').Run} */
function runner(model) {
  const shapes = model.getInputDetails().map(({shape}) => shape);
  return async (inputs) => {
    const given = inputs.map((input, k) => new Tensor(input, shapes[k]));
    let outputs = [];
    try {
      outputs = await model.run(given);
      return await Promise.all(outputs.map((tensor) => tensor.data()));
    } finally {
      // LiteRT's memory is not the garbage collector's.
      [...given, ...outputs].forEach((tensor) => tensor.delete());
    }
  };
}

/** The bytes of a file of this page. */
async function fetched(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} cannot be loaded (${response.status}); start faceeraser demo again`);
  return new Uint8Array(await response.arrayBuffer());
}

export const firstLine = (error) => String(error?.message ?? error).split('\n')[0];
