// Everything on a photo, from a grid of clicks, by the rules of `saqsam everything`, on masks as the model gives
// them: a mask is kept if its predicted IoU and its stability are high and no better mask has nearly its box.

const SIDE = 16;
/** Clicks along each side; half of what `saqsam everything` makes, a quarter of its time. */
const LEAST_IOU = 0.88, LEAST_STABILITY = 0.95, OFFSET = 1, OVERLAP = 0.7;
const EASIER = [1, 0.9, 0.8, 0.7];
/** Where few masks pass both thresholds, they are multiplied by the next of these; small models are less sure. */
const FEW = 6, MOST = 40;
/** Each object is a picture in the browser's memory. */

const SLOTS = [1, 2, 3];

/** Box [left, top, right, bottom] and stability of logits on the part that shows the photo; null if it is empty. */
export function measured(logits, frame) {
  const low = Math.round(Math.sqrt(logits.length));
  const width = Math.ceil(low * frame.resizedWidth / frame.side), height = Math.ceil(low * frame.resizedHeight / frame.side);
  let surely = 0, perhaps = 0, left = low, top = low, right = -1, bottom = -1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = logits[y * low + x];
      if (value > -OFFSET) perhaps++;
      if (value > OFFSET) surely++;
      if (value <= 0) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return right < 0 ? null : { box: [left, top, right + 1, bottom + 1], stability: surely / perhaps };
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const size = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return width * height / (size(a) + size(b) - width * height);
}

/** The masks to keep, best first, and the predicted IoU they had to reach. */
export function chosen(candidates) {
  const best = [...candidates].sort((a, b) => b.score - a.score);
  let found;
  for (const easier of EASIER) {
    found = { kept: [], least: LEAST_IOU * easier };
    for (const one of best) {
      if (one.score <= found.least || one.stability < LEAST_STABILITY * easier) continue;
      if (found.kept.every((other) => overlap(one.box, other.box) <= OVERLAP)) found.kept.push(one);
    }
    if (found.kept.length >= FEW) break;
  }
  return { ...found, kept: found.kept.slice(0, MOST) };
}

/** Clicks {x, y} with the slot of the mask that each of them gives, for `Session.found`.
 *  `tell(done, total)` hears of progress; once `stopped()`, the answer is null. */
export async function findEverything(engine, photo, tell, stopped) {
  const candidates = [], total = SIDE * SIDE;
  for (let i = 0; i < total; i++) {
    if (stopped()) return null;
    tell(i, total);
    const x = ((i % SIDE) + 0.5) * photo.width / SIDE, y = (Math.floor(i / SIDE) + 0.5) * photo.height / SIDE;
    const { masks, scores } = await engine.decode({ points: [{ x, y, label: 1 }], box: null }, SLOTS);
    SLOTS.forEach((slot, k) => {
      const found = measured(masks[k], engine.frame);
      if (found) candidates.push({ x, y, slot, score: scores[k], ...found });
    });
  }
  return stopped() ? null : chosen(candidates);
}
