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
  const run = runner(model);
  const taken = named(model.getInputDetails(), card.inputs);
  const given = named(model.getOutputDetails(), card.outputs);
  return {
    detector: runner(await loadAndCompile(detector, wasm)),
    landmarker: runner(await loadAndCompile(landmarker, wasm)),
    occluder: runner(await loadAndCompile(occluder, wasm)),
    eraser: async (crop, mask) => {
      const outputs = await run(taken.map((name) => ({image: crop, mask})[name]));
      return Object.fromEntries(given.map((name, k) => [name, outputs[k]]));
    },
    size: card.resolution,
    told: {runs: webgpu ? 'webgpu' : 'wasm', threads, why},
  };
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
