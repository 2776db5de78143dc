// Which part of the photo an object is looked for on: all of it or, for boxes and a model that was made for it,
// a square crop around the box. The rules are those of `saqsam segment` for one box (saqsam.segment.zoom).
//
// A place is {width, height, window, frame, keep}: the photo's size; the part of the photo that the model sees,
// [x0, y0, x1, y1] in whole pixels; where that lies in the model's input; and the part in which a mask may lie.

import { frameFor } from "./pixels.mjs";

const CROP_FACTOR = 1.5;

/** From `low` to `high`, `factor` times as long, in whole pixels and as far as `side` reaches. */
function stretched(low, high, factor, side) {
  const more = (high - low) * (factor - 1) / 2;
  const start = Math.min(Math.max(0, Math.floor(low - more)), side - 1);
  return [start, Math.max(start + 1, Math.min(side, Math.ceil(high + more)))];
}

function around([x0, y0, x1, y1], factor, { width, height }) {
  const [left, right] = stretched(x0, x1, factor, width), [top, bottom] = stretched(y0, y1, factor, height);
  return [left, top, right, bottom];
}

function squareAround([x0, y0, x1, y1], factor, photo) {
  const half = Math.max(x1 - x0, y1 - y0) / 2, x = (x0 + x1) / 2, y = (y0 + y1) / 2;
  return around([x - half, y - half, x + half, y + half], factor, photo);
}

/** The place of an answer that was found on a window of the photo, for a box or, where it is null, for clicks. */
export function placeOn(window, model, box, { width, height }) {
  const [x0, y0, x1, y1] = window;
  const keep = box && model.clip_to_box ? around(box.map(Math.fround), 1, { width, height }) : [0, 0, width, height];
  return { width, height, window, frame: frameFor(x1 - x0, y1 - y0, model.side, model.pads), keep };
}

/** Where a model looks for what clicks and a box ask; with `zoom` false on the whole photo in any case.
 *  Coordinates are float32, as saqsam takes them. */
export function placeFor(model, { points, box }, photo, zoom = true) {
  if (!box || !model.zoom || !zoom) return placeOn([0, 0, photo.width, photo.height], model, box, photo);
  const xs = [box[0], box[2], ...points.map(({ x }) => x)].map(Math.fround);
  const ys = [box[1], box[3], ...points.map(({ y }) => y)].map(Math.fround);
  const grown = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  return placeOn(squareAround(grown, CROP_FACTOR, photo), model, box, photo);
}

/** Clicks and a box of the photo in pixels of a place's window. */
export function shifted({ points, box }, { window: [left, top] }) {
  const x = (value) => Math.fround(Math.fround(value) - left), y = (value) => Math.fround(Math.fround(value) - top);
  return {
    points: points.map((point) => ({ x: x(point.x), y: y(point.y), label: point.label })),
    box: box && [x(box[0]), y(box[1]), x(box[2]), y(box[3])],
  };
}
