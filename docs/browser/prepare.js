// From an image to a model's input, and the way back: hardnet_suite/inference/prepare.py for the rules that the build of
// this page lets through. All numbers come from the model's own record.

const ONE = 2 ** 11; // 1.0 in OpenCV's weights

/**
 * Resizes an image as an input rule says.
 * @param {{width: number, height: number, pixels: Uint8Array}} image RGB, row by row
 * @param {object} rule `preprocess` of the model's record
 * @returns {{width: number, height: number, planes: Uint8Array}} R, G and B one after the other
 */
export function prepare(image, rule) {
  const [height, width] = contentSize(image, rule);
  return { width, height, planes: resized(image, height, width) };
}

/** [height, width] of an image as the model takes it. */
export function contentSize(image, rule) {
  const size = typeof rule.size === "number" ? [rule.size, rule.size] : rule.size;
  if (rule.resize === "stretch") return size;
  if (rule.resize === "fit") return fitted([image.height, image.width], size);
  throw new Error(`unknown way to resize: ${rule.resize}`);
}

/** The largest size of the same aspect ratio whose long side fits the longer one of `size`, and the short side the other. */
function fitted(sides, size) {
  const factor = Math.min(Math.max(...size) / Math.max(...sides), Math.min(...size) / Math.min(...sides));
  return sides.map((side) => Math.max(Math.floor(side * factor + 0.5), 1));
}

/** Bilinear, in the integer arithmetic of OpenCV, to the last bit. */
function resized({ width: oldWidth, height: oldHeight, pixels }, height, width) {
  const area = height * width;
  const planes = new Uint8Array(3 * area);
  if (height === oldHeight && width === oldWidth) {
    for (let channel = 0; channel < 3; channel++) {
      for (let place = 0; place < area; place++) planes[channel * area + place] = pixels[3 * place + channel];
    }
    return planes;
  }
  const columns = neighbours(oldWidth, width);
  for (const column of columns) { // beyond the border a pixel stands alone
    if (column.first < 0 || column.first >= oldWidth - 1) column.weights = [ONE, 0];
  }
  const inside = (place, side) => Math.min(Math.max(place, 0), side - 1);
  neighbours(oldHeight, height).forEach(({ first: row, weights: [upper, lower] }, y) => {
    const top = inside(row, oldHeight) * oldWidth;
    const bottom = inside(row + 1, oldHeight) * oldWidth;
    columns.forEach(({ first: column, weights: [left, right] }, x) => {
      const from = inside(column, oldWidth);
      const to = inside(column + 1, oldWidth);
      for (let channel = 0; channel < 3; channel++) {
        const above = pixels[3 * (top + from) + channel] * left + pixels[3 * (top + to) + channel] * right;
        const below = pixels[3 * (bottom + from) + channel] * left + pixels[3 * (bottom + to) + channel] * right;
        const sum = (((above >> 4) * upper) >> 16) + (((below >> 4) * lower) >> 16);
        planes[channel * area + y * width + x] = Math.min((sum + 2) >> 2, 255);
      }
    });
  });
  return planes;
}

/** For each new pixel the first of the two old ones around its centre, and their weights; in float32, as OpenCV. */
function neighbours(side, newSide) {
  const step = 1 / (newSide / side);
  return Array.from({ length: newSide }, (_, index) => {
    const place = Math.fround((index + 0.5) * step - 0.5);
    const first = Math.floor(place);
    const share = Math.fround(place - first);
    return { first, weights: [evenRound(Math.fround(1 - share) * ONE), evenRound(share * ONE)] };
  });
}

function evenRound(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/**
 * The class of each pixel of the image: logits over the input, bilinear between the centers of the corners, in float32.
 * @param {{data: Float32Array, dims: number[]}} logits (1, classes, height, width) of the input
 * @param {{width: number, height: number}} image
 * @returns {Uint8Array} row by row; of classes that are alike the first
 */
export function classesOfImage({ data, dims: [, classes, inputHeight, inputWidth] }, { width, height }) {
  const area = inputHeight * inputWidth;
  const mask = new Uint8Array(width * height);
  const columns = corners(inputWidth, width);
  const line = new Float32Array(inputWidth);
  const best = new Float32Array(width);
  corners(inputHeight, height).forEach(({ first, second, share }, y) => {
    const row = mask.subarray(y * width, (y + 1) * width);
    best.fill(-Infinity);
    for (let label = 0; label < classes; label++) {
      const [above, below] = [first, second].map((each) => label * area + each * inputWidth);
      for (let x = 0; x < inputWidth; x++) line[x] = data[above + x] * (1 - share) + data[below + x] * share;
      for (let x = 0; x < width; x++) {
        const column = columns[x];
        const value = Math.fround(line[column.first] * (1 - column.share) + line[column.second] * column.share);
        if (value > best[x]) {
          best[x] = value;
          row[x] = label;
        }
      }
    }
  });
  return mask;
}

/** For each new pixel the two old ones around it, and the share of the second; the first and last pixels are the old ones'. */
function corners(side, newSide) {
  const step = Math.fround(newSide > 1 ? (side - 1) / (newSide - 1) : 0);
  return Array.from({ length: newSide }, (_, index) => {
    const place = Math.fround(step * index);
    const first = Math.min(Math.floor(place), side - 1);
    return { first, second: Math.min(first + 1, side - 1), share: Math.fround(place - first) };
  });
}

/** (K, 4) boxes in pixels of the input -> in pixels of the image, clipped if the output rule says so; in float32. */
export function boxesToImage(boxes, input, image, { clip }) {
  const scales = [input.width / image.width, input.height / image.height].map(Math.fround);
  const sides = [image.width, image.height];
  return boxes.map((box) => box.map((value, index) => {
    const place = Math.fround(value / scales[index % 2]);
    return clip ? Math.min(Math.max(place, 0), sides[index % 2]) : place;
  }));
}
