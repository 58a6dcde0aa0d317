// Pictures as typed arrays, and the few operations on them that faces.js and effects.js need. A canvas would do some of
// them faster and all of them differently: these give what OpenCV gives on the Python side, within a level of 8 bits.

/**
 * @typedef {{width: number, height: number, channels: number, data: Uint8ClampedArray | Float32Array}} Picture
 * Interleaved rows from the top. Pixel centres are at whole numbers. An `ImageData` with `channels: 4` is one.
 * @typedef {number[]} Matrix [a, b, x, c, d, y]: (px, py) -> (a px + b py + x, c px + d py + y)
 */

/** @returns {Picture} zeros, of 8 bits (rounded and clamped as they are stored) or of floats */
export function blank(width, height, channels, floats = false) {
  const length = width * height * channels;
  return {width, height, channels, data: floats ? new Float32Array(length) : new Uint8ClampedArray(length)};
}

/** @returns {Matrix} the way back */
export function inverted([a, b, x, c, d, y]) {
  const det = a * d - b * c;
  return [d / det, -b / det, (b * y - d * x) / det, -c / det, a / det, (c * x - a * y) / det];
}

/** @returns {number[]} where a matrix brings a point */
export function moved([a, b, x, c, d, y], [px, py]) {
  return [a * px + b * py + x, c * px + d * py + y];
}

/** The larger singular value of a matrix: how much it enlarges at most. */
export function scaleOf([a, b, , c, d]) {
  const sum = a * a + b * b + c * c + d * d;
  return Math.sqrt((sum + Math.sqrt(Math.max(0, sum * sum - 4 * (a * d - b * c) ** 2))) / 2);
}

/** Python's round: halves go to the even neighbour. */
export function rounded(value) {
  const floor = Math.floor(value);
  const above = value - floor;
  return above < 0.5 || (above === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

/** Keys' cubic kernel with -0.75, as OpenCV has it: the weights of the pixels at -1, 0, 1 and 2. */
export function cubic(f, weights) {
  const A = -0.75;
  const g = 1 - f;
  weights[0] = ((A * (f + 1) - 5 * A) * (f + 1) + 8 * A) * (f + 1) - 4 * A;
  weights[1] = ((A + 2) * f - (A + 3)) * f * f + 1;
  weights[2] = ((A + 2) * g - (A + 3)) * g * g + 1;
  weights[3] = 1 - weights[0] - weights[1] - weights[2];
}

/**
 * What a matrix makes of a picture (cv2.warpAffine).
 * @param {Picture} source
 * @param {Matrix} matrix from the source's coordinates to the result's
 * @param {number} width
 * @param {number} height
 * @param {'nearest' | 'linear' | 'cubic'} kind
 * @param {{channels?: number, zero?: boolean}} options how many channels to take (all); `zero`: nothing is beyond the
 *   source's border, instead of its border pixels again and again
 * @returns {Picture} of the source's type
 */
export function warp(source, matrix, width, height, kind, {channels = source.channels, zero = false} = {}) {
  const {data, width: w, height: h, channels: stride} = source;
  const result = blank(width, height, channels, data instanceof Float32Array);
  const out = result.data;
  // Coordinates in single precision, as OpenCV keeps them: what falls between two pixels then falls to the same one.
  const {fround} = Math;
  const [a, b, x0, c, d, y0] = inverted(matrix).map(fround);
  const reach = kind === 'cubic' ? 4 : kind === 'linear' ? 2 : 1;
  const wx = new Float64Array(4);
  const wy = new Float64Array(4);
  const columns = new Int32Array(4);
  for (let y = 0, at = 0; y < height; y++) {
    const bx = fround(b * y);
    const ey = fround(d * y);
    for (let x = 0; x < width; x++) {
      const sx = fround(fround(fround(a * x) + bx) + x0);
      const sy = fround(fround(fround(c * x) + ey) + y0);
      let left = Math.floor(sx);
      let top = Math.floor(sy);
      if (reach === 1) {
        left = rounded(sx);
        top = rounded(sy);
        wx[0] = wy[0] = 1;
      } else if (reach === 2) {
        wx[1] = sx - left;
        wx[0] = 1 - wx[1];
        wy[1] = sy - top;
        wy[0] = 1 - wy[1];
      } else {
        cubic(sx - left, wx);
        cubic(sy - top, wy);
        left -= 1;
        top -= 1;
      }
      for (let i = 0; i < reach; i++) {
        const column = left + i;
        if (zero && (column < 0 || column >= w)) wx[i] = 0;
        columns[i] = (column < 0 ? 0 : column >= w ? w - 1 : column) * stride;
      }
      if (channels === 3) {
        let red = 0;
        let green = 0;
        let blue = 0;
        for (let j = 0; j < reach; j++) {
          const row = top + j;
          if (zero && (row < 0 || row >= h)) continue;
          const start = (row < 0 ? 0 : row >= h ? h - 1 : row) * w * stride;
          let lineRed = 0;
          let lineGreen = 0;
          let lineBlue = 0;
          for (let i = 0; i < reach; i++) {
            const pixel = start + columns[i];
            const weight = wx[i];
            lineRed += data[pixel] * weight;
            lineGreen += data[pixel + 1] * weight;
            lineBlue += data[pixel + 2] * weight;
          }
          red += lineRed * wy[j];
          green += lineGreen * wy[j];
          blue += lineBlue * wy[j];
        }
        out[at] = red;
        out[at + 1] = green;
        out[at + 2] = blue;
      } else {
        for (let channel = 0; channel < channels; channel++) {
          let sum = 0;
          for (let j = 0; j < reach; j++) {
            const row = top + j;
            if (zero && (row < 0 || row >= h)) continue;
            const start = (row < 0 ? 0 : row >= h ? h - 1 : row) * w * stride + channel;
            for (let i = 0; i < reach; i++) sum += data[start + columns[i]] * wy[j] * wx[i];
          }
          out[at + channel] = sum;
        }
      }
      at += channels;
    }
  }
  return result;
}

/** Every value of a picture times a factor, as floats. (`Float32Array.from` with a function takes twenty times as long.) */
export function scaled({data}, factor) {
  const result = new Float32Array(data.length);
  for (let k = 0; k < data.length; k++) result[k] = data[k] * factor;
  return result;
}

/**
 * Where something is true of the values of a map, 1, else 0. (`Uint8Array.from` with a function goes by the iterator, which is slow.)
 * @param {Float32Array} map
 * @param {(value: number) => boolean} is
 * @returns {Uint8Array}
 */
export function where(map, is) {
  const result = new Uint8Array(map.length);
  for (let k = 0; k < map.length; k++) if (is(map[k])) result[k] = 1;
  return result;
}

/** For each of `to` cells the first of `from` pixels it covers, and by how much it covers each: by 0.001 at least. */
function coverage(from, to) {
  const scale = from / to;
  return Array.from({length: to}, (_, k) => {
    const low = k * scale;
    const high = Math.min(from, low + scale);
    const start = Math.min(Math.ceil(low), Math.floor(high));
    const weights = start - low > 1e-3 ? [start - low] : [];
    const first = start - weights.length;
    for (let i = start; i < Math.floor(high); i++) weights.push(1);
    if (high - Math.floor(high) > 1e-3) weights.push(high - Math.floor(high));
    return {first, weights: weights.map((weight) => weight / (high - low))};
  });
}

/**
 * A picture scaled down by averaging areas (cv2.resize, INTER_AREA).
 * @param {Picture} source
 * @param {number} width
 * @param {number} height
 * @param {{left?: number, top?: number, right?: number, bottom?: number, channels?: number}} part of the source, and how
 *   many of its channels; all of it by default
 * @returns {Picture}
 */
export function averaged(source, width, height, part = {}) {
  const {left = 0, top = 0, right = source.width, bottom = source.height, channels = source.channels} = part;
  const result = blank(width, height, channels, source.data instanceof Float32Array);
  const across = coverage(right - left, width);
  const down = coverage(bottom - top, height);
  const line = new Float64Array((right - left) * channels);
  const sums = new Float64Array(channels);
  // The mean of 2 x 2 pixels often ends in a half, and in that one case OpenCV rounds halves up.
  const exact = right - left === 2 * width && bottom - top === 2 * height;
  const half = exact && !(source.data instanceof Float32Array) ? 1e-7 : 0;
  for (let y = 0, at = 0; y < height; y++) {
    line.fill(0);
    down[y].weights.forEach((weight, k) => {
      let from = ((top + down[y].first + k) * source.width + left) * source.channels;
      for (let i = 0; i < line.length; from += source.channels) {
        for (let c = 0; c < channels; c++) line[i++] += source.data[from + c] * weight;
      }
    });
    for (let x = 0; x < width; x++) {
      const {first, weights} = across[x];
      sums.fill(0);
      for (let k = 0; k < weights.length; k++) {
        for (let c = 0; c < channels; c++) sums[c] += line[(first + k) * channels + c] * weights[k];
      }
      for (let c = 0; c < channels; c++) result.data[at++] = sums[c] + half;
    }
  }
  return result;
}

/** A picture scaled up smoothly (cv2.resize, INTER_LINEAR). */
export function enlarged(source, width, height) {
  const fx = width / source.width;
  const fy = height / source.height;
  return warp(source, [fx, 0, 0.5 * fx - 0.5, 0, fy, 0.5 * fy - 0.5], width, height, 'linear');
}

/**
 * Cut an affine patch out of a picture, without aliasing (faces.cut).
 * @param {Picture} image
 * @param {Matrix} matrix picture to patch coordinates
 * @param {boolean} sharp enlarge by cubic instead of linear sampling
 * @returns {Picture} (height, width, 3), of the picture's type; beyond the picture its border pixels are repeated
 */
export function cut(image, matrix, width, height, sharp = true) {
  const back = inverted(matrix);
  const corners = [[-1, -1], [width, -1], [-1, height], [width, height]].map((corner) => moved(back, corner));
  const limit = (value, low, high) => Math.min(Math.max(value, low), high);
  const xs = corners.map(([x]) => x);
  const ys = corners.map(([, y]) => y);
  const left = limit(Math.floor(Math.min(...xs)) - 2, 0, image.width - 1);
  const top = limit(Math.floor(Math.min(...ys)) - 2, 0, image.height - 1);
  const right = limit(Math.ceil(Math.max(...xs)) + 3, left + 1, image.width);
  const bottom = limit(Math.ceil(Math.max(...ys)) + 3, top + 1, image.height);
  const scale = scaleOf(matrix);
  if (scale >= 0.75) return warp(image, matrix, width, height, scale > 1 && sharp ? 'cubic' : 'linear', {channels: 3});
  // Sampling a large face directly skips pixels, and the mesh then jitters: average areas first.
  const small = [Math.max(1, rounded((right - left) * scale)), Math.max(1, rounded((bottom - top) * scale))];
  const piece = averaged(image, ...small, {left, top, right, bottom, channels: 3});
  const fx = small[0] / (right - left);
  const fy = small[1] / (bottom - top);
  const [a, b, x, c, d, y] = matrix;
  const ox = 0.5 / fx - 0.5 + left;
  const oy = 0.5 / fy - 0.5 + top;
  const local = [a / fx, b / fy, a * ox + b * oy + x, c / fx, d / fy, c * ox + d * oy + y];
  return warp(piece, local, width, height, 'linear');
}

/**
 * How far each non-zero pixel is from the nearest zero (cv2.distanceTransform, DIST_L2 with a mask of 5: Borgefors' chamfer).
 * @param {Uint8Array} field
 * @returns {Float32Array} pixels; beyond the field is neither
 */
export function depths(field, width, height) {
  const [A, B, C] = [65536, 91750, 143976]; // 1, 1.4 and 2.1969, times 2^16
  const line = width + 4;
  const far = 1 << 29;
  const near = new Int32Array(line * (height + 4)).fill(far);
  for (let y = 0; y < height; y++) {
    for (let x = 0, at = (y + 2) * line + 2; x < width; x++, at++) {
      if (!field[y * width + x]) {
        near[at] = 0;
        continue;
      }
      const up = at - line;
      near[at] = Math.min(
        near[up - line - 1] + C, near[up - line + 1] + C, near[up - 2] + C, near[up + 2] + C,
        near[up - 1] + B, near[up + 1] + B, near[up] + A, near[at - 1] + A,
      );
    }
  }
  const result = new Float32Array(width * height);
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1, at = (y + 2) * line + x + 2; x >= 0; x--, at--) {
      const under = at + line;
      if (near[at] > A) {
        near[at] = Math.min(
          near[at], near[under + line - 1] + C, near[under + line + 1] + C, near[under - 2] + C, near[under + 2] + C,
          near[under - 1] + B, near[under + 1] + B, near[under] + A, near[at + 1] + A,
        );
      }
      result[y * width + x] = near[at] / 65536;
    }
  }
  return result;
}

/** A line of one pixel, by Bresenham as OpenCV draws it: from left to right. */
function drawLine(field, width, height, from, to, value) {
  const [[x0, y0], [x1, y1]] = from[0] <= to[0] ? [from, to] : [to, from];
  const dx = x1 - x0;
  const dy = Math.abs(y1 - y0);
  const down = Math.sign(y1 - y0);
  const [long, short] = dy > dx ? [dy, dx] : [dx, dy];
  let [x, y, error] = [x0, y0, long - 2 * short];
  for (let k = 0; k <= long; k++) {
    if (x >= 0 && y >= 0 && x < width && y < height) field[y * width + x] = value;
    const aside = error < 0;
    error += -2 * short + (aside ? 2 * long : 0);
    if (dy > dx) {
      y += down;
      if (aside) x += 1;
    } else {
      x += 1;
      if (aside) y += down;
    }
  }
}

/**
 * Fill a polygon, its outline included (cv2.fillPoly, or for a `convex` one cv2.fillConvexPoly, which rounds where that
 * one takes what is inside).
 * @param {Uint8Array} field changed
 * @param {number[][]} points in pixels; kept to sixteenths, as the Python side gives them
 */
export function fillPolygon(field, width, height, points, value, convex = false) {
  const ONE = 65536;
  const corners = points.map(([x, y]) => [rounded(x * 16), rounded(y * 16)]);
  const whole = corners.map(([x, y]) => [(x + 8) >> 4, (y + 8) >> 4]);
  const crossings = new Map();
  corners.forEach((_, k) => {
    const other = (k + 1) % corners.length;
    drawLine(field, width, height, whole[k], whole[other], value);
    const [upper, lower] = whole[k][1] < whole[other][1] ? [k, other] : [other, k];
    const [top, bottom] = [whole[upper][1], whole[lower][1]];
    if (top === bottom) return;
    const step = Math.trunc(((corners[lower][0] - corners[upper][0]) * (ONE / 16)) / (bottom - top));
    let x = corners[upper][0] * (ONE / 16);
    for (let y = top; y < bottom; y++, x += step) {
      if (!crossings.has(y)) crossings.set(y, []);
      crossings.get(y).push(x);
    }
  });
  for (const [y, xs] of crossings) {
    if (y < 0 || y >= height) continue;
    xs.sort((a, b) => a - b);
    for (let k = 0; k + 1 < xs.length; k += 2) {
      const from = Math.max(0, convex ? Math.round(xs[k] / ONE) : Math.ceil(xs[k] / ONE));
      const to = Math.min(width - 1, convex ? Math.round(xs[k + 1] / ONE) : Math.floor(xs[k + 1] / ONE));
      for (let x = from; x <= to; x++) field[y * width + x] = value;
    }
  }
}

/** Each pixel 1 where any of `field`, of 0 and 1, is 1 in the square of 3 around it; beyond the field nothing is. */
export function grown(field, width, height) {
  const across = field.map((on, k) => {
    const x = k % width;
    return on | (x > 0 ? field[k - 1] : 0) | (x < width - 1 ? field[k + 1] : 0);
  });
  return across.map((on, k) => on | (k >= width ? across[k - width] : 0) | (k < across.length - width ? across[k + width] : 0));
}

/** A mask and all that no disc of a radius beside it reaches; by distance, which costs the same at any radius. */
export function closed(field, width, height, radius) {
  const result = new Uint8Array(field.length);
  const box = bounds(field, width, height); // nothing is added beyond it
  if (!box) return result;
  const rim = Math.ceil(radius) + 1; // the disc may stand outside of the picture
  const [w, h] = [box.width + 2 * rim, box.height + 2 * rim];
  const outside = new Uint8Array(w * h).fill(1);
  for (let y = 0; y < box.height; y++) {
    for (let x = 0, from = (box.top + y) * width + box.left; x < box.width; x++, from++) {
      if (field[from]) outside[(y + rim) * w + rim + x] = 0;
    }
  }
  const depth = depths(where(depths(outside, w, h), (away) => away <= radius), w, h);
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++) {
      result[(box.top + y) * width + box.left + x] = depth[(y + rim) * w + rim + x] > radius ? 1 : 0;
    }
  }
  return result;
}

/**
 * What of a field hangs together, corners too, with a pixel of it for which `begins` is true.
 * @param {Uint8Array} field (side, side) of 0 and 1
 * @param {(k: number) => boolean} begins
 * @returns {Uint8Array} (side, side)
 */
export function reached(field, side, begins) {
  const result = new Uint8Array(field.length);
  const open = [];
  const visit = (k) => {
    if (!field[k] || result[k]) return;
    result[k] = 1;
    open.push(k);
  };
  field.forEach((on, k) => on && begins(k) && visit(k));
  while (open.length) {
    const k = open.pop();
    const [x, y] = [k % side, Math.floor(k / side)];
    for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, side - 1); row++) {
      for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, side - 1); column++) visit(row * side + column);
    }
  }
  return result;
}

/** The largest or smallest of the pixels in a square of 2 half + 1 around each pixel: `pick` is Math.max or Math.min. */
export function extremes(field, width, height, half, pick) {
  const across = new Float32Array(field.length);
  const result = new Float32Array(field.length);
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      let value = field[k];
      for (let i = Math.max(x - half, 0); i <= Math.min(x + half, width - 1); i++) value = pick(value, field[y * width + i]);
      across[k] = value;
    }
  }
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      let value = across[k];
      for (let i = Math.max(y - half, 0); i <= Math.min(y + half, height - 1); i++) value = pick(value, across[i * width + x]);
      result[k] = value;
    }
  }
  return result;
}

/** A picture convolved with a symmetric kernel of an odd length, along rows and columns; `at` maps what is beyond a border. */
function convolved(source, kernel, at) {
  const {width, height, channels} = source;
  const middle = kernel.length >> 1;
  const first = new Float32Array(width * height * channels);
  const result = blank(width, height, channels, source.data instanceof Float32Array);
  kernel.forEach((weight, k) => {
    const columns = Int32Array.from({length: width}, (_, x) => at(x + k - middle, width) * channels);
    for (let y = 0, to = 0; y < height; y++) {
      const start = y * width * channels;
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < channels; c++) first[to++] += source.data[start + columns[x] + c] * weight;
      }
    }
  });
  const line = new Float64Array(width * channels);
  for (let y = 0; y < height; y++) {
    line.fill(0);
    kernel.forEach((weight, k) => {
      const from = at(y + k - middle, height) * width * channels;
      for (let i = 0; i < line.length; i++) line[i] += first[from + i] * weight;
    });
    result.data.set(line, y * width * channels);
  }
  return result;
}

/** Smoothed by a Gaussian of `sigma` pixels (cv2.GaussianBlur with its own width, borders mirrored). */
export function smoothed(source, sigma) {
  const reach = source.data instanceof Float32Array ? 4 : 3;
  const length = rounded(sigma * reach * 2 + 1) | 1;
  const raw = Array.from({length}, (_, k) => Math.exp(-((k - (length - 1) / 2) ** 2) / (2 * sigma * sigma)));
  const sum = raw.reduce((a, b) => a + b);
  const mirror = (k, n) => {
    if (n === 1) return 0;
    while (k < 0 || k >= n) k = k < 0 ? -k : 2 * (n - 1) - k;
    return k;
  };
  return convolved(source, raw.map((w) => w / sum), mirror);
}

/** The mean of 3 x 3 pixels, border pixels repeated (cv2.blur). */
export function blurred(source) {
  return convolved(source, [1 / 3, 1 / 3, 1 / 3], (k, n) => (k < 0 ? 0 : k >= n ? n - 1 : k));
}

/** The box around the non-zero pixels, or null where there are none. */
export function bounds(field, width, height) {
  let [left, top, right, bottom] = [width, -1, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!field[y * width + x]) continue;
      if (top < 0) top = y;
      bottom = y;
      left = Math.min(left, x);
      right = Math.max(right, x);
    }
  }
  return top < 0 ? null : {left, top, width: right - left + 1, height: bottom - top + 1};
}
