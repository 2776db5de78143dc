// What one takes along: masks, cut-outs, COCO results, and the prompts with the command that repeats them.

import { area, bounds, runLengths } from "./masks.mjs";
import { SINGLE } from "./state.mjs";

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const plain = (name) => name.trim().replace(/[^\p{L}\p{N}_.-]+/gu, "-") || "object";

async function savePicture(photo, paint, name) {
  const canvas = new OffscreenCanvas(photo.width, photo.height);
  paint(canvas.getContext("2d"));
  download(await canvas.convertToBlob({ type: "image/png" }), name);
}

/** White where the mask is, black elsewhere, at the photo's size: what `saqsam segment --out` writes. */
export function saveMask(photo, mask, object) {
  const picture = new ImageData(photo.width, photo.height);
  const words = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < mask.length; i++) words[i] = mask[i] ? 0xffffffff : 0xff000000;
  return savePicture(photo, (pen) => pen.putImageData(picture, 0, 0), `${photo.stem}-${plain(object.name)}-mask.png`);
}

/** The photo where the mask is, transparent elsewhere. */
export function saveCutOut(photo, mask, object) {
  const pixels = photo.pixels();
  for (let i = 0; i < mask.length; i++) if (!mask[i]) pixels[i * 4 + 3] = 0;
  const picture = new ImageData(pixels, photo.width, photo.height);
  return savePicture(photo, (pen) => pen.putImageData(picture, 0, 0), `${photo.stem}-${plain(object.name)}-cutout.png`);
}

const json = (value) => new Blob([`${JSON.stringify(value, null, 2)}\n`], { type: "application/json" });

/** COCO instances: one category for each name, run lengths as pycocotools reads them. */
export function cocoOf(photo, found) {
  const names = [...new Set(found.map(({ object }) => object.name))];
  return {
    images: [{ id: 1, file_name: photo.name, width: photo.width, height: photo.height }],
    categories: names.map((name, i) => ({ id: i + 1, name })),
    annotations: found.map(({ object, mask, score }, i) => ({
      id: i + 1, image_id: 1, category_id: names.indexOf(object.name) + 1, iscrowd: 0,
      segmentation: runLengths(mask, photo.width, photo.height),
      area: area(mask), bbox: bounds(mask, photo.width), score,
    })),
  };
}

export const saveCoco = (photo, found) => download(json(cocoOf(photo, found)), `${photo.stem}-coco.json`);

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Whether a box was answered on the whole photo by a model that has another way. */
const onWhole = (model, object, zoom) => Boolean(model.zoom && object.box) && !zoom;

/** The command that gives this object's mask again. */
export function commandFor(model, photo, { object, slot, zoom }) {
  const number = (value) => String(value);
  const words = ["saqsam", "segment", model.model, photo.name];
  if (object.box) words.push("--box", object.box.map(number).join(","));
  for (const { x, y, label } of object.points) words.push(label ? "--point" : "--not-point", `${number(x)},${number(y)}`);
  if (onWhole(model, object, zoom)) words.push("--no-zoom");
  if (slot !== SINGLE) words.push("--all-masks");
  words.push("--out", `${photo.stem}-${plain(object.name)}.png`);
  return words.map(quoted).join(" ");
}

/** Prompts as arguments of `Sam.segment`, and as command lines. */
export function promptsOf(model, photo, found) {
  return {
    model: model.model, image: photo.name, width: photo.width, height: photo.height,
    objects: found.map(({ object, slot, score, objectScore, zoom }) => ({
      name: object.name,
      boxes: object.box ? [object.box] : null,
      points: object.points.length ? [object.points.map(({ x, y }) => [x, y])] : null,
      labels: object.points.length ? [object.points.map(({ label }) => label)] : null,
      zoom: onWhole(model, object, zoom) ? false : undefined,
      mask: slot === SINGLE ? "single" : slot, iou_score: score, object_score: objectScore ?? undefined,
      command: commandFor(model, photo, { object, slot, zoom }),
      note: slot === SINGLE ? undefined : `--all-masks writes three files; this mask is number ${slot}`,
    })),
  };
}

export const savePrompts = (model, photo, found) =>
  download(json(promptsOf(model, photo, found)), `${photo.stem}-prompts.json`);
