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
  photo.pixels = (window = [0, 0, width, height]) => pixelsOf(bitmap, window, name);
  return photo;
}

/** RGBA of a window [x0, y0, x1, y1] of a picture; what lies under transparent pixels is kept, as saqsam keeps it. */
function pixelsOf(bitmap, [x0, y0, x1, y1], name) {
  const width = x1 - x0, height = y1 - y0;
  let data;
  try {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.drawImage(bitmap, -x0, -y0);
    data = context.getImageData(0, 0, width, height).data;
  } catch {
    throw new Fault("huge", name);
  }
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) return underneath(bitmap, x0, y0, width, height) ?? data;
  return data;
}

/** The same by WebGL, whose textures, unlike a 2D canvas, are not multiplied by their transparency;
 *  null where there is no WebGL or the picture is too large for it. */
function underneath(bitmap, x, y, width, height) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(bitmap.width, bitmap.height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8ClampedArray(width * height * 4);
  const bytes = new Uint8Array(data.buffer);
  gl.readPixels(x, y, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : data;
}

/** The first picture among what was dropped or pasted. */
export function pictureIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? files[0] ?? null;
}
