// What can go wrong, in words that say what to do next.

const SENTENCES = {
  simd: () => "This browser cannot run WebAssembly with SIMD, which the model needs. "
    + "Update it, or take a current Firefox, Chrome, Edge or Safari (16.4 or newer).",
  memory: () => "There was not enough memory for this model. Close other tabs and load the page again, "
    + "or take a smaller model.",
  hash: (file) => `The file ${file} is not the one this page was made with: its SHA-256 differs, so it was `
    + "not run. Reload without the cache; if that does not help, export the page again.",
  missing: (file) => `The file ${file} could not be loaded. Is the server still running, and is the folder whole?`,
  manifest: () => "The page's manifest.json could not be read. Export the folder again, whole.",
  token: () => "This server wants a token. Open the page with the whole address that saqsam printed.",
  photo: (name) => `${name || "This file"} could not be read as a picture. Take a JPEG, PNG, WebP, GIF or AVIF file.`,
  huge: (name) => `${name || "This picture"} has more pixels than this page takes (89 million). Make it smaller first.`,
  heavy: (name) => `${name} is a larger file than the server takes (100 MB). Make it smaller first.`,
  server: (detail) => `The saqsam server did not answer as it should: ${detail}`,
  gone: () => "The saqsam server does not answer any more. Start it again with: saqsam serve",
  worker: () => "The page's worker could not be started. Reload; an extension may have blocked it.",
  empty: () => "There is nothing to save yet. Click on something in the photo first.",
  engine: (detail) => `The model could not be run: ${detail}`,
};

export class Fault extends Error {
  constructor(kind, detail = "") {
    super((SENTENCES[kind] ?? SENTENCES.engine)(detail));
    this.kind = kind;
  }
}

/** Any error as a sentence for people. */
export function sentence(error) {
  return error instanceof Fault ? error.message : SENTENCES.engine(error?.message ?? error);
}

/** Whether this browser runs WebAssembly's 128-bit instructions: asked with the smallest module that has one. */
export function hasSimd() {
  const module = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
  ];
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(module));
}
