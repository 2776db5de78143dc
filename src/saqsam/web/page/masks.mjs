// What becomes of a mask: enlarged from logits, counted, compared, and written as COCO's run lengths.

/** For each of `to` places along one side: up to four low-resolution neighbours and their weights.
 *  Two bilinear steps in a row, to the model's input and from there to the photograph, are one. */
function taps(low, side, resized, to) {
  const at = new Int32Array(to);
  const weights = new Float64Array(to * 4);
  const neighbours = (place, from, length) => {
    const source = Math.max(0, (place + 0.5) * from / length - 0.5);
    const first = Math.min(Math.floor(source), from - 1);
    return [first, Math.min(first + 1, from - 1), source - first];
  };
  for (let place = 0; place < to; place++) {
    const [first, second, share] = neighbours(place, resized, to);
    const base = neighbours(first, low, side)[0];
    at[place] = base;
    for (const [middle, part] of [[first, 1 - share], [second, share]]) {
      const [left, right, inner] = neighbours(middle, low, side);
      weights[place * 4 + left - base] += part * (1 - inner);
      weights[place * 4 + right - base] += part * inner;
    }
  }
  return { at, weights };
}

/** For each place among `low` x `low` logits: 1 where it and the three to the right and below are all above 0, -1 where
 *  none is, else 0. A mean of them is on the same side, so most of a photo needs no mean. */
function sidesOfCut(logits, low) {
  const sides = new Int8Array(low * low);
  for (let y = 0; y < low; y++) {
    for (let x = 0; x < low; x++) {
      let above = false, below = false;
      for (let j = y; j < Math.min(low, y + 4); j++) {
        for (let i = x; i < Math.min(low, x + 4); i++) {
          if (logits[j * low + i] > 0) above = true;
          else below = true;
        }
      }
      sides[y * low + x] = above === below ? 0 : above ? 1 : -1;
    }
  }
  return sides;
}

/** Where runs of places on the same side begin and end, and that side; those below 0 are left out. */
function runsOf(sides, at) {
  const runs = [];
  for (let from = 0, to = 1; from < at.length; to++) {
    const side = sides[at[from]];
    if (to < at.length && sides[at[to]] === side) continue;
    if (side >= 0) runs.push([from, to, side]);
    from = to;
  }
  return runs;
}

/** A mask of 0 and 1 at `width` x `height` from `low` x `low` logits, cut at 0.
 *  At the photograph's own size this is the mask that `saqsam segment` writes. */
export function enlarge(logits, frame, width = frame.width, height = frame.height) {
  const low = Math.round(Math.sqrt(logits.length));
  // Without padding the whole of the logits is the photograph, enlarged in one step.
  const { side, resizedWidth, resizedHeight } =
    frame.pads ? frame : { side: low, resizedWidth: low, resizedHeight: low };
  const across = taps(low, side, resizedWidth, width);
  const down = taps(low, side, resizedHeight, height);
  const rows = new Float64Array(low * width);
  for (let y = 0; y < low; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let i = 0; i < 4; i++) {
        const weight = across.weights[x * 4 + i];
        if (weight !== 0) sum += weight * logits[y * low + across.at[x] + i];
      }
      rows[y * width + x] = sum;
    }
  }
  const mask = new Uint8Array(width * height);
  const sides = sidesOfCut(logits, low);
  let runs = [];
  for (let y = 0; y < height; y++) {
    const base = down.at[y] * width, row = y * width;
    if (y === 0 || down.at[y] !== down.at[y - 1]) {
      runs = runsOf(sides.subarray(down.at[y] * low, (down.at[y] + 1) * low), across.at);
    }
    const [a, b, c, d] = down.weights.subarray(y * 4, y * 4 + 4);
    for (const [from, to, side] of runs) {
      if (side > 0) {
        mask.fill(1, row + from, row + to);
        continue;
      }
      for (let x = from; x < to; x++) {
        let sum = a * rows[base + x];
        if (b !== 0) sum += b * rows[base + width + x];
        if (c !== 0) sum += c * rows[base + 2 * width + x];
        if (d !== 0) sum += d * rows[base + 3 * width + x];
        if (sum > 0) mask[row + x] = 1;
      }
    }
  }
  return mask;
}

/** An answer's mask at `width` x `height` of the whole photo: enlarged where it was looked for, kept where it may lie
 *  (see crops.mjs), 0 elsewhere. */
export function placed(logits, place, width = place.width, height = place.height) {
  const drawn = ([x0, y0, x1, y1]) => {
    const left = Math.min(width - 1, Math.round(x0 * width / place.width));
    const top = Math.min(height - 1, Math.round(y0 * height / place.height));
    return [left, top, Math.max(left + 1, Math.round(x1 * width / place.width)),
      Math.max(top + 1, Math.round(y1 * height / place.height))];
  };
  const [left, top, right, bottom] = drawn(place.window), [x0, y0, x1, y1] = drawn(place.keep);
  const part = enlarge(logits, place.frame, right - left, bottom - top);
  const [first, last] = [Math.max(left, x0), Math.min(right, x1)];
  const mask = new Uint8Array(width * height);
  for (let y = Math.max(top, y0); y < Math.min(bottom, y1); y++) {
    const row = (y - top) * (right - left) - left;
    mask.set(part.subarray(row + first, row + last), y * width + first);
  }
  return mask;
}

export function area(mask) {
  let count = 0;
  for (let i = 0; i < mask.length; i++) count += mask[i];
  return count;
}

/** Pixels in which two masks of one size differ, and the share of their union that they have in common. */
export function difference(one, other) {
  let differ = 0, common = 0;
  for (let i = 0; i < one.length; i++) {
    if (one[i] !== other[i]) differ++;
    else if (one[i]) common++;
  }
  return { differ, iou: common + differ ? common / (common + differ) : 1 };
}

/** Left, top, width and height of a mask's pixels, as COCO has it; zeros where it is empty. */
export function bounds(mask, width) {
  let left = Infinity, top = Infinity, right = -1, bottom = -1;
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const x = i % width, y = (i - x) / width;
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < top) top = y;
    bottom = y;
  }
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top + 1];
}

/** COCO's compressed run lengths: column by column, each count against the one before the last. */
export function runLengths(mask, width, height) {
  const counts = [];
  let value = 0, length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (mask[y * width + x] === value) length++;
      else { counts.push(length); value = 1 - value; length = 1; }
    }
  }
  counts.push(length);
  let text = "";
  counts.forEach((count, i) => {
    let rest = i > 2 ? count - counts[i - 2] : count;
    for (let more = true; more;) {
      let digit = rest & 31;
      rest >>= 5;
      more = digit & 16 ? rest !== -1 : rest !== 0;
      if (more) digit |= 32;
      text += String.fromCharCode(digit + 48);
    }
  });
  return { size: [height, width], counts: text };
}
