// Copies the page and LiteRT's runtime into faceeraser/page, where `faceeraser demo` looks. Nothing is bundled: the page's
// modules are loaded as they are written, and of the packages only one import by a bare name has to become a path.

import {cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, '..', 'faceeraser', 'page');
const partial = `${target}.partial-${process.pid}`;
const packages = join(here, 'node_modules', '@litertjs');

/** A module of a package as a browser can load it: without its source map, and with `from` leading to a file. */
function asFile(path, from = {}) {
  let text = readFileSync(path, 'utf8').replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n');
  for (const [name, file] of Object.entries(from)) {
    const pieces = text.split(`"${name}"`);
    if (pieces.length !== 2) throw new Error(`${path}: found "${name}" ${pieces.length - 1} times; expected one import of it`);
    text = pieces.join(`"${file}"`);
  }
  return text;
}

rmSync(partial, {recursive: true, force: true});
try {
  cpSync(join(here, 'src'), partial, {recursive: true});
  mkdirSync(join(partial, 'litert'));
  const core = asFile(join(packages, 'core', 'dist', 'index.js'), {'@litertjs/wasm-utils': './wasm-utils.js'});
  writeFileSync(join(partial, 'litert', 'core.js'), core);
  writeFileSync(join(partial, 'litert', 'wasm-utils.js'), asFile(join(packages, 'wasm-utils', 'dist', 'index.js')));
  cpSync(join(packages, 'core', 'wasm'), join(partial, 'litert', 'wasm'), {recursive: true});
  const {version} = JSON.parse(readFileSync(join(packages, 'core', 'package.json'), 'utf8'));
  writeFileSync(join(partial, 'litert', 'version.json'), `${JSON.stringify({version})}\n`);
  // Renamed at the end: a page that is there is whole.
  rmSync(target, {recursive: true, force: true});
  renameSync(partial, target);
} finally {
  rmSync(partial, {recursive: true, force: true});
}
console.log(`wrote ${target}`);
