// A photograph as the model and the person see it.

import { Fault } from "./faults.mjs";

const MOST = 89_000_000;

/** Decode a picture without any change of colour; a rotation that the camera noted is applied. */
export async function openPhoto(blob, name = "") {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image",
    });
  } catch {
    throw new Fault("photo", name);
  }
  const { width, height } = bitmap;
  if (width * height > MOST) throw new Fault("huge", name);
  const stem = (name || "photo").replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "-") || "photo";
  const photo = { blob, bitmap, width, height, name: name || "photo", stem };
  photo.pixels = () => pixelsOf(bitmap, name);
  return photo;
}

function pixelsOf(bitmap, name) {
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  } catch {
    throw new Fault("huge", name);
  }
}

/** The first picture among what was dropped or pasted. */
export function pictureIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? files[0] ?? null;
}
