// What people see: a picture or the camera, what to take off its faces, before and after.

import {bench} from './bench.js';
import {firstLine, open} from './engine.js';
import {Clock, Eraser} from './eraser.js';

const LONGEST = 4096; // pixels of a picture's longer side: what a phone's canvas holds
const SMALLEST = 16;
const CAMERA = {width: {ideal: 640}, height: {ideal: 480}};
const asked = new URLSearchParams(location.search);
const $ = (id) => document.getElementById(id);

const view = $('view').getContext('2d');
const before = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const after = document.createElement('canvas').getContext('2d');

/** What the page is doing: for its own functions, and for tests. */
export const app = {
  /** @type {Eraser | null} */ eraser: null,
  engine: null,
  /** the picture that is shown, for another effect on it */ picture: null,
  name: '',
  /** @type {MediaStream | null} */ stream: null,
  facing: 'user',
  frames: 0,
  fps: 0,
  /** what was found and made of it last */ faces: [],
  erased: null,
};

/** One line for the reader; `wrong`: something they have to know. */
function say(text, wrong = false) {
  $('message').textContent = text;
  $('message').classList.toggle('wrong', wrong);
}

/** Do something; what goes wrong becomes a line. */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    say(firstLine(error), true);
  }
}

// --- the view ---------------------------------------------------------------------------------------------------------

/** Show both canvases, the slider between them. */
function draw() {
  const {width, height} = before.canvas;
  if (view.canvas.width !== width || view.canvas.height !== height) Object.assign(view.canvas, {width, height});
  view.drawImage(after.canvas, 0, 0);
  const at = Math.round(Number($('split').value) * width);
  if (at <= 0) return;
  view.drawImage(before.canvas, 0, 0, at, height, 0, 0, at, height);
  if (at < width) {
    view.fillStyle = '#fff';
    view.fillRect(at - 1, 0, Math.max(2, width / 400), height);
  }
}

function show(erased) {
  const {width, height} = erased;
  if (after.canvas.width !== width || after.canvas.height !== height) Object.assign(after.canvas, {width, height});
  after.putImageData(new ImageData(erased.data, width, height), 0, 0);
  $('empty').hidden = true;
  document.querySelector('.split').hidden = false;
  $('save').disabled = false;
  draw();
}

/** Draw a source into `before`, and give its pixels. */
function grab(source, width, height, mirrored = false) {
  if (before.canvas.width !== width || before.canvas.height !== height) Object.assign(before.canvas, {width, height});
  before.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
  before.fillStyle = '#fff'; // behind what is transparent
  before.fillRect(0, 0, width, height);
  before.drawImage(source, 0, 0, width, height);
  return {width, height, channels: 4, data: before.getImageData(0, 0, width, height).data};
}

/** What is chosen. */
function choice() {
  const effect = document.querySelector('input[name="effect"]:checked').value;
  return {effect, parts: [...document.querySelectorAll('#parts input:checked')].map(({value}) => value)};
}

const counted = (n, one) => `${n} ${one}${n === 1 ? '' : 's'}`;

// --- pictures ---------------------------------------------------------------------------------------------------------

/** Erase the faces of a picture, and show it. */
async function openPicture(blob, name) {
  stopCamera();
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Error(`${name}: this browser cannot read it as a picture; it may be damaged, or of another kind: try a JPEG`);
  }
  if (Math.min(bitmap.width, bitmap.height) < SMALLEST) {
    throw new Error(`${name}: is ${bitmap.width} x ${bitmap.height} pixels; expected at least ${SMALLEST} on each side`);
  }
  Object.assign(app, {picture: bitmap, name});
  await erasePicture();
}

let waiting = false; // something was chosen while a picture was being erased
let erasing = false;

async function erasePicture() {
  if (erasing) {
    waiting = true;
    return;
  }
  erasing = true;
  try {
    do {
      waiting = false;
      await erasePictureOnce();
    } while (waiting);
  } finally {
    erasing = false;
  }
}

async function erasePictureOnce() {
  const {picture, name} = app;
  say(`${name}: looking for faces ...`);
  await new Promise((resume) => setTimeout(resume)); // so that this is seen
  const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  const image = grab(picture, Math.round(picture.width * scale), Math.round(picture.height * scale));
  const clock = new Clock();
  const faces = await app.eraser.find(image, clock);
  const erased = await app.eraser.erase(image, faces, choice(), clock);
  Object.assign(app, {faces, erased});
  show(erased);
  if (!faces.length) {
    say(`${name}: no face found; expected an upright face that looks at the camera; cut closer to it`, true);
    return;
  }
  const smaller = scale < 1 ? `, scaled down to ${image.width} x ${image.height}` : '';
  const all = Object.values(clock.steps).reduce((a, b) => a + b);
  say(`${name}: ${counted(faces.length, 'face')}${smaller}`);
  $('figures').textContent = `${Math.round(all)} ms, of these ${Math.round(clock.steps.model)} ms in the network`;
}

// --- camera -----------------------------------------------------------------------------------------------------------

const CAMERA_ERRORS = {
  NotAllowedError: 'The camera may not be used: allow it for this page in the browser, or open a picture.',
  NotFoundError: 'No camera found; open a picture instead.',
  NotReadableError: 'The camera is in use by another program; close that, or open a picture.',
};

async function startCamera() {
  if (!navigator.mediaDevices) {
    throw new Error('Browsers give a camera only to https and to localhost: on a phone use adb reverse (docs/web.md).');
  }
  stopCamera();
  try {
    const video = {...CAMERA, facingMode: app.facing};
    app.stream = await navigator.mediaDevices.getUserMedia({video, audio: false});
  } catch (error) {
    throw new Error(CAMERA_ERRORS[error.name] ?? `The camera cannot be opened (${firstLine(error)}).`);
  }
  app.picture = null;
  $('camera').textContent = 'Stop';
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({kind}) => kind === 'videoinput');
  $('turn').hidden = cameras.length < 2;
  say('Camera');
  attempt(() => followCamera(app.stream));
}

function stopCamera() {
  app.stream?.getTracks().forEach((track) => track.stop());
  app.stream = null;
  $('camera').textContent = 'Camera';
  $('turn').hidden = true;
  $('figures').textContent = '';
}

/** Erase frame after frame for as long as this stream is the one that is shown. */
async function followCamera(stream) {
  const video = document.createElement('video');
  Object.assign(video, {srcObject: stream, muted: true, playsInline: true});
  await video.play();
  const next = () => new Promise((resume) => {
    // A frame of the camera and not of the screen; Firefox has no such call.
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resume);
    else requestAnimationFrame(resume);
  });
  const settings = stream.getVideoTracks()[0].getSettings();
  const mirrored = app.facing === 'user' && settings.facingMode !== 'environment';
  app.eraser.begin();
  Object.assign(app, {frames: 0, fps: 0});
  const times = [];
  let last = performance.now();
  stream.getVideoTracks()[0].addEventListener('ended', () => {
    if (app.stream !== stream) return;
    stopCamera();
    say('The camera has stopped.', true);
  });
  while (app.stream === stream) {
    await next();
    if (app.stream !== stream || !video.videoWidth) continue;
    const now = performance.now();
    const clock = new Clock();
    const image = grab(video, video.videoWidth, video.videoHeight, mirrored);
    const followed = await app.eraser.follow(image, Math.max(0.001, (now - last) / 1000), clock);
    const faces = followed.map(({face}) => face);
    const erased = await app.eraser.erase(image, faces, choice(), clock, followed.map(({number}) => number));
    last = now;
    if (app.stream !== stream) break;
    show(erased);
    app.frames += 1;
    Object.assign(app, {faces, erased});
    times.push(performance.now());
    while (times.length > 30) times.shift();
    if (times.length > 1) app.fps = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    $('figures').textContent = `${app.fps.toFixed(1)} frames per second; ${Math.round(clock.steps.model ?? 0)} ms in the network`;
    say(faces.length ? `Camera: ${counted(faces.length, 'face')}` : 'Camera: no face found');
  }
}

// --- the page ---------------------------------------------------------------------------------------------------------

async function save() {
  const blob = await new Promise((resume) => after.canvas.toBlob(resume, 'image/png'));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `${(app.picture ? app.name : 'camera').replace(/\.[^.]*$/, '')}-${choice().effect || 'erased'}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function addChoice(place, kind, name, value, text, title, checked) {
  const label = document.createElement('label');
  const input = Object.assign(document.createElement('input'), {type: kind, name, value, checked});
  label.title = title;
  label.append(input, ` ${text}`);
  place.append(label, ' ');
}

function listen() {
  const changed = () => {
    // An effect starts from an empty face.
    const whole = choice().effect !== '';
    document.querySelectorAll('#parts input').forEach((input) => (input.disabled = whole && input.value !== 'glasses'));
    if (app.picture) attempt(erasePicture);
  };
  $('effects').addEventListener('change', changed);
  $('parts').addEventListener('change', changed);
  $('camera').addEventListener('click', () => {
    if (!app.stream) return attempt(startCamera);
    stopCamera();
    return say('Camera stopped.');
  });
  $('turn').addEventListener('click', () => {
    app.facing = app.facing === 'user' ? 'environment' : 'user';
    attempt(startCamera);
  });
  $('choose').addEventListener('click', () => $('file').click());
  $('file').addEventListener('change', () => {
    const [file] = $('file').files;
    if (file) attempt(() => openPicture(file, file.name));
    $('file').value = '';
  });
  $('example').addEventListener('click', () => attempt(openExample));
  $('save').addEventListener('click', () => attempt(save));
  $('split').addEventListener('input', draw);
  const slide = (event) => {
    if (!event.buttons) return;
    const box = view.canvas.getBoundingClientRect();
    $('split').value = (event.clientX - box.left) / box.width;
    draw();
  };
  view.canvas.addEventListener('pointerdown', (event) => {
    view.canvas.setPointerCapture(event.pointerId);
    slide(event);
  });
  view.canvas.addEventListener('pointermove', slide);
  for (const kind of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $('stage').classList.toggle('over', kind === 'dragover');
    });
  }
  document.addEventListener('drop', (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) say('What was dropped is not a file; drop a picture file.', true);
    else if (app.eraser) attempt(() => openPicture(file, file.name));
  });
  addEventListener('unhandledrejection', (event) => say(firstLine(event.reason), true));
}

const exampleBlob = async () => (await fetch('astronaut.jpg')).blob();

async function openExample() {
  await openPicture(await exampleBlob(), 'astronaut.jpg');
}

async function json(name) {
  const response = await fetch(`data/${name}.json`);
  if (!response.ok) throw new Error(`data/${name}.json cannot be loaded (${response.status}); start faceeraser demo again`);
  return response.json();
}

/** Keep all that was loaded, so that the page works without its server from now on. */
async function keep() {
  if (!('serviceWorker' in navigator)) {
    $('offline').textContent = 'Does not work offline here: browsers allow that to https and to localhost.';
    return;
  }
  await navigator.serviceWorker.register('sw.js');
  const loaded = performance.getEntriesByType('resource').map(({name}) => name);
  const own = loaded.filter((name) => new URL(name).origin === location.origin && !name.includes('/figures'));
  const kept = await caches.open('faceeraser');
  await kept.addAll([...new Set(['./', 'astronaut.jpg', ...own].map((name) => new URL(name, location).href))]);
  await navigator.serviceWorker.ready;
  $('offline').textContent = 'Works offline from now on.';
}

/** What /?bench=1 asks for: figures as JSON, on the page and as `window.bench`; with &post=1 they go back to the server. */
async function measure(card) {
  say('Measuring ...');
  const frames = Math.min(1000, Math.max(1, Number(asked.get('frames')) || 100));
  const effect = asked.get('effect') ?? '';
  if (effect && !(effect in app.eraser.effects)) throw new Error(`effect=${effect} is not known`);
  const picture = await createImageBitmap(await exampleBlob());
  const found = await bench(app.eraser, picture, {parts: app.eraser.parts, effect}, frames, (canvas, erased) => {
    grab(canvas, canvas.width, canvas.height);
    show(erased);
  });
  const {version} = await (await fetch('litert/version.json')).json();
  const figures = {
    ...found, effect: effect || null, ...app.engine.told, litert: version, model: card.file, sha256: card.sha256,
    precision: card.precision, isolated: globalThis.crossOriginIsolated, cores: navigator.hardwareConcurrency,
    agent: navigator.userAgent,
  };
  $('bench').textContent = JSON.stringify(figures, null, 1);
  $('bench').hidden = false;
  globalThis.bench = figures;
  say(`${found.fps.toFixed(1)} frames per second`);
  if (asked.has('post')) await post(figures);
}

/** Give something back to the server that asked for it: benchmarks/web.py, on this machine or at the other end of adb. */
async function post(figures) {
  const sent = await fetch('figures', {method: 'POST', body: JSON.stringify(figures)});
  if (!sent.ok) throw new Error('The server does not take figures: benchmarks/web.py starts one that does.');
}

async function start() {
  listen();
  const webgpu = asked.get('run') === 'webgpu';
  const [card, faces, effects, tracking] = await Promise.all(['model', 'faces', 'effects', 'tracking'].map(json));
  app.engine = await open(card, webgpu);
  app.eraser = new Eraser(app.engine, {faces, effects, tracking});
  for (const [name, {told}] of Object.entries(effects.effects)) {
    addChoice($('effects'), 'radio', 'effect', name, name, told, false);
  }
  for (const part of app.eraser.parts) addChoice($('parts'), 'checkbox', 'part', part, part, '', true);
  addChoice($('parts'), 'checkbox', 'part', 'glasses', 'glasses', 'a pair that fits the landmarks, lenses included', false);
  const {runs, threads, why} = app.engine.told;
  const where = runs === 'webgpu' ? 'WebGPU' : `WebAssembly, ${counted(threads, 'thread')}`;
  $('runs').textContent = `Runs on ${where}. ${why}`;
  const other = Object.assign(document.createElement('a'), {
    href: webgpu ? './' : './?run=webgpu', textContent: webgpu ? 'Use WebAssembly' : 'Try WebGPU',
  });
  $('runs').append(' ', other);
  document.querySelectorAll('fieldset').forEach((fieldset) => (fieldset.disabled = false));
  if (asked.has('bench')) await measure(card);
  else say('Ready.');
  keep().catch((error) => ($('offline').textContent = `Does not work offline (${firstLine(error)}).`));
}

/** Settles when the page can be used, or has said why not. */
export const ready = attempt(async () => {
  try {
    await start();
  } catch (error) {
    if (asked.has('bench') && asked.has('post')) await post({error: firstLine(error)});
    throw error;
  }
});
