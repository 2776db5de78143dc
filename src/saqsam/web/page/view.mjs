// The photo with what lies over it, drawn on one canvas; coordinates are pixels of the photo.

const MOST = 1600;
/** Longest side at which masks are drawn; saving takes them at the photo's own size. */
const EDGE = 0.95, FILL = 0.45;

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.photo = null;
    this.layers = [];
    this.ghost = null;
    this.cursor = null;
    this.rubber = null;
    this.split = null;
    this.zoom = 1;
    this.x = this.y = 0;
    this.pending = false;
    this.fitted = true;
    new ResizeObserver(() => this.#resized()).observe(canvas);
    this.#resized();
  }

  /** Width and height at which masks are enlarged for the screen. */
  get size() {
    const scale = Math.min(1, MOST / Math.max(this.photo.width, this.photo.height));
    return [Math.max(1, Math.round(this.photo.width * scale)), Math.max(1, Math.round(this.photo.height * scale))];
  }

  show(photo) {
    Object.assign(this, { photo, layers: [], ghost: null, cursor: null, rubber: null });
    this.fit();
  }

  fit() {
    if (!this.photo) return;
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    this.zoom = Math.min(wide / this.photo.width, high / this.photo.height) || 1;
    this.x = (wide - this.photo.width * this.zoom) / 2;
    this.y = (high - this.photo.height * this.zoom) / 2;
    this.fitted = true;
    this.draw();
  }

  /** Enlarge by a factor, so that what is at (x, y) of the canvas stays there; the middle if left out. */
  enlarge(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    if (!this.photo) return;
    const least = Math.min(this.canvas.clientWidth / this.photo.width, this.canvas.clientHeight / this.photo.height, 1);
    const zoom = Math.min(Math.max(this.zoom * factor, least * 0.5), 40);
    this.x = x - (x - this.x) * zoom / this.zoom;
    this.y = y - (y - this.y) * zoom / this.zoom;
    this.zoom = zoom;
    this.fitted = false;
    this.draw();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.draw();
  }

  /** From the canvas, in CSS pixels, to the photo; `inside` says whether it lies on it. */
  toPhoto(x, y) {
    const place = { x: (x - this.x) / this.zoom, y: (y - this.y) / this.zoom };
    const inside = place.x >= 0 && place.y >= 0 && place.x < this.photo.width && place.y < this.photo.height;
    return { ...place, inside };
  }

  /** Bring a place of the photo into sight. */
  reveal({ x, y }) {
    const left = this.x + x * this.zoom, top = this.y + y * this.zoom, edge = 24;
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    const dx = left < edge ? edge - left : left > wide - edge ? wide - edge - left : 0;
    const dy = top < edge ? edge - top : top > high - edge ? high - edge - top : 0;
    if (dx || dy) this.move(dx, dy);
    else this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.#paint(); });
  }

  #resized() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    if (!wide || !high) return;
    this.canvas.width = Math.round(wide * ratio);
    this.canvas.height = Math.round(high * ratio);
    if (this.fitted) this.fit();
    this.draw();
  }

  #paint() {
    const { context: pen, canvas, photo } = this;
    const ratio = devicePixelRatio || 1;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!photo) return;
    pen.setTransform(ratio * this.zoom, 0, 0, ratio * this.zoom, ratio * this.x, ratio * this.y);
    pen.imageSmoothingEnabled = this.zoom < 3;
    pen.drawImage(photo.bitmap, 0, 0);
    const middle = this.split === null ? null : this.split * photo.width;
    for (const layer of this.layers) {
      if (middle === null || layer.pictures.length < 2) this.#part(layer.pictures[0], 0, photo.width);
      else {
        this.#part(layer.pictures[0], 0, middle);
        this.#part(layer.pictures[1], middle, photo.width);
      }
    }
    if (this.ghost) this.#part(this.ghost, 0, photo.width);
    for (const layer of this.layers) this.#prompts(layer);
    const unit = 1 / this.zoom;
    if (middle !== null) this.#line([[middle, 0], [middle, photo.height]], "#fff", unit * 2);
    if (this.rubber) this.#box(this.rubber, "#fff", unit);
    if (this.cursor) {
      const { x, y } = this.cursor;
      this.#line([[x - 14 * unit, y], [x + 14 * unit, y]], "#fff", unit * 2);
      this.#line([[x, y - 14 * unit], [x, y + 14 * unit]], "#fff", unit * 2);
    }
  }

  #part(picture, from, to) {
    if (!picture || to <= from) return;
    const pen = this.context;
    pen.save();
    pen.beginPath();
    pen.rect(from, 0, to - from, this.photo.height);
    pen.clip();
    pen.drawImage(picture, 0, 0, this.photo.width, this.photo.height);
    pen.restore();
  }

  #prompts({ object, faint }) {
    const pen = this.context, unit = 1 / this.zoom;
    pen.globalAlpha = faint ? 0.5 : 1;
    if (object.box) this.#box(object.box, object.colour, unit);
    for (const { x, y, label } of object.points) {
      pen.beginPath();
      pen.arc(x, y, 7 * unit, 0, 2 * Math.PI);
      pen.fillStyle = label ? "#0b8a3e" : "#c81e3a";
      pen.fill();
      pen.lineWidth = 2 * unit;
      pen.strokeStyle = "#fff";
      pen.stroke();
      const arm = 3.5 * unit;
      pen.beginPath();
      pen.moveTo(x - arm, y);
      pen.lineTo(x + arm, y);
      if (label) { pen.moveTo(x, y - arm); pen.lineTo(x, y + arm); }
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  #box([x0, y0, x1, y1], colour, unit) {
    const corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]];
    this.#line(corners, colour, unit * 2);
  }

  /** A line that is seen on light and on dark. */
  #line(places, colour, width) {
    const pen = this.context;
    for (const [style, thick] of [["rgba(0,0,0,.6)", width * 2], [colour, width]]) {
      pen.beginPath();
      places.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.strokeStyle = style;
      pen.lineWidth = thick;
      pen.stroke();
    }
  }
}

/** A mask as a picture: filled, with an edge that is seen on any ground. */
export function tinted(mask, width, height, colour, strength = 1) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const picture = new ImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  const word = (alpha) => ((Math.round(alpha * 255 * strength) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const edge = word(EDGE), fill = word(FILL);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const inner = (x === 0 || mask[i - 1]) && (x === width - 1 || mask[i + 1])
        && (y === 0 || mask[i - width]) && (y === height - 1 || mask[i + width]);
      words[i] = inner ? fill : edge;
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}
