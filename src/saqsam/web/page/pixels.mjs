// From a photograph's pixels to the model's input, number for number as saqsam does it in Python:
// Pillow's bilinear resize in its 22-bit integers, float32 normalisation, zeros on the right and below.

const PRECISION = 22;
const IMAGENET_MEAN = [0.485, 0.456, 0.406], IMAGENET_STD = [0.229, 0.224, 0.225];

/** Size of the picture inside the model's square input, of which it fills all unless the model pads. */
export function frameFor(width, height, side, pads = true) {
  if (!pads) return { width, height, resizedWidth: side, resizedHeight: side, side, pads };
  const scale = side / Math.max(width, height);
  const fit = (length) => Math.max(1, Math.floor(length * scale + 0.5));
  return { width, height, resizedWidth: fit(width), resizedHeight: fit(height), side, pads };
}

/** A point of the photograph in pixels of the model's input, float32. */
export function toInput(frame, x, y) {
  return [
    Math.fround(x * (frame.resizedWidth / frame.width)),
    Math.fround(y * (frame.resizedHeight / frame.height)),
  ];
}

/** For each pixel of the result: where its sources begin, and their weights as integers. */
function coefficients(from, to) {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = filterScale;
  const size = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to);
  const counts = new Int32Array(to);
  const weights = new Int32Array(to * size);
  for (let at = 0; at < to; at++) {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(from, Math.trunc(centre + support + 0.5)) - first;
    const own = [];
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const distance = Math.abs((i + first - centre + 0.5) * (1 / filterScale));
      const weight = distance < 1 ? 1 - distance : 0;
      own.push(weight);
      sum += weight;
    }
    starts[at] = first;
    counts[at] = count;
    for (let i = 0; i < count; i++) {
      const weight = (sum === 0 ? own[i] : own[i] / sum) * (1 << PRECISION);
      weights[at * size + i] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
  return { starts, counts, weights, size };
}

const clip = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);

/** One direction: `lines` rows of `from` RGBA pixels, `step` apart, to rows of `to`. */
function resample(source, target, from, to, lines, inside, outsideFrom, outsideTo) {
  const { starts, counts, weights, size } = coefficients(from, to);
  const half = 1 << (PRECISION - 1);
  for (let line = 0; line < lines; line++) {
    for (let at = 0; at < to; at++) {
      let red = half, green = half, blue = half;
      let place = (line * outsideFrom + starts[at] * inside) * 4;
      for (let i = 0; i < counts[at]; i++) {
        const weight = weights[at * size + i];
        red = (red + Math.imul(source[place], weight)) | 0;
        green = (green + Math.imul(source[place + 1], weight)) | 0;
        blue = (blue + Math.imul(source[place + 2], weight)) | 0;
        place += inside * 4;
      }
      const into = (line * outsideTo + at * inside) * 4;
      target[into] = clip(red >> PRECISION);
      target[into + 1] = clip(green >> PRECISION);
      target[into + 2] = clip(blue >> PRECISION);
    }
  }
}

/** RGBA pixels resized as Pillow's BILINEAR does; the fourth channel is not looked at.
 *  Each pass rounds to 8 bits, so their order matters: Pillow 13 shrinks tall pictures vertically first. */
export function resize(rgba, width, height, newWidth, newHeight) {
  let pixels = rgba, wide = width, high = height;
  const across = () => {
    if (newWidth === wide) return;
    const target = new Uint8ClampedArray(newWidth * high * 4);
    resample(pixels, target, wide, newWidth, high, 1, wide, newWidth);
    [pixels, wide] = [target, newWidth];
  };
  const down = () => {
    if (newHeight === high) return;
    const target = new Uint8ClampedArray(wide * newHeight * 4);
    resample(pixels, target, high, newHeight, wide, wide, 1, 1);
    [pixels, high] = [target, newHeight];
  };
  const tall = height > 2 * width && newHeight < height;
  for (const pass of tall ? [down, across] : [across, down]) pass();
  return pixels;
}

/** The model's input (3, side, side) float32 of RGBA pixels; mean and deviation are of values in 0..1. */
export function preprocess(rgba, frame, { mean = IMAGENET_MEAN, std = IMAGENET_STD } = {}) {
  const { width, height, resizedWidth, resizedHeight, side } = frame;
  const pixels = resize(rgba, width, height, resizedWidth, resizedHeight);
  const values = new Float32Array(3 * side * side);
  for (let channel = 0; channel < 3; channel++) {
    const [taken, divided] = [mean, std].map((each) => Math.fround(each[channel]));
    // Each of the 256 values is computed once, rounded to float32 after every step as PyTorch does.
    const table = Float32Array.from({ length: 256 }, (_, value) =>
      Math.fround(Math.fround(Math.fround(value / 255) - taken) / divided));
    for (let y = 0; y < resizedHeight; y++) {
      let into = channel * side * side + y * side;
      let place = y * resizedWidth * 4 + channel;
      for (let x = 0; x < resizedWidth; x++, place += 4) values[into++] = table[pixels[place]];
    }
  }
  return values;
}
