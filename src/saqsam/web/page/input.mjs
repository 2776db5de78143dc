// Mouse, pen, fingers and keys on the photo, as what they mean.

const DRAG = 5;
/** CSS pixels from which a press is a drag. */
const WRITTEN_IN = "input:not([type=range], [type=checkbox]), textarea, select";

/** Listen to the canvas. `act` has: click(x, y, label), drag(box), hover(place or null), mode(): "add",
 *  "subtract" or "move", and the keys' done(), cancel(), undo(), redo(), choose(number), next(). */
export function listen(canvas, view, act) {
  const fingers = new Map();
  let press = null;
  const at = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());

  canvas.addEventListener("pointerdown", (event) => {
    if (!view.photo) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size > 1) { press = null; view.rubber = null; view.draw(); return; }
    view.cursor = null;
    const moves = act.mode() === "move" || event.button === 1 || event.altKey;
    // The place on the photo counts: the window may change its size before the button is up.
    const from = at(event), { photo } = view;
    press = { from, photo, place: view.toPhoto(...from), moves, label: subtracts(event, act) ? 0 : 1 };
    act.hover(null);
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!view.photo) return;
    const now = at(event), before = fingers.get(event.pointerId);
    if (press && press.photo !== view.photo) press = null;
    if (before && fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
      view.enlarge(distance(now, other) / distance(before, other), ...other);
    } else if (press?.moves) {
      view.move(now[0] - before[0], now[1] - before[1]);
    } else if (press && Math.hypot(now[0] - press.from[0], now[1] - press.from[1]) > DRAG) {
      view.rubber = between(view, press.place, view.toPhoto(...now));
      view.draw();
    } else if (!press && event.pointerType !== "touch") {
      const place = view.toPhoto(...now);
      act.hover(place.inside && act.mode() !== "move" ? place : null);
    }
    if (before) fingers.set(event.pointerId, now);
  });

  canvas.addEventListener("pointerup", (event) => {
    fingers.delete(event.pointerId);
    if (!press || press.photo !== view.photo) return;
    const { place, moves, label } = press;
    press = null;
    const box = view.rubber;
    view.rubber = null;
    view.draw();
    if (moves) return;
    if (box) {
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) act.drag(box);
      return;
    }
    if (place.inside) act.click(place.x, place.y, label);
  });

  canvas.addEventListener("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    press = view.rubber = null;
    view.draw();
  });

  canvas.addEventListener("pointerleave", () => act.hover(null));

  canvas.addEventListener("wheel", (event) => {
    if (!view.photo) return;
    event.preventDefault();
    view.enlarge(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...at(event));
  }, { passive: false });

  canvas.addEventListener("blur", () => { view.cursor = null; view.draw(); });
  canvas.addEventListener("keydown", (event) => { if (view.photo && onCanvas(event, view, act)) event.preventDefault(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && press) {
      press = view.rubber = null;
      view.draw();
      return;
    }
    if (event.defaultPrevented || !view.photo || event.target.matches?.(WRITTEN_IN)) return;
    if (anywhere(event, view, act)) event.preventDefault();
  });
}

const subtracts = (event, act) => event.button === 2 || event.shiftKey || act.mode() === "subtract";

/** Two corners as a box of the photo, inside of it. */
function between({ photo }, a, b) {
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  return [
    within(Math.min(a.x, b.x), photo.width), within(Math.min(a.y, b.y), photo.height),
    within(Math.max(a.x, b.x), photo.width), within(Math.max(a.y, b.y), photo.height),
  ];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Keys that mean a place on the photo. */
function onCanvas(event, view, act) {
  const { photo } = view;
  if (event.key in ARROWS && !event.ctrlKey && !event.metaKey) {
    const long = Math.max(photo.width, photo.height);
    const step = event.altKey ? 1 : Math.max(1, long * (event.shiftKey ? 0.08 : 0.016));
    const from = view.cursor ?? { x: photo.width / 2, y: photo.height / 2 };
    const [dx, dy] = ARROWS[event.key];
    const within = (value, most) => Math.min(Math.max(value, 0.5), most - 0.5);
    view.cursor = {
      ...view.cursor, x: within(from.x + dx * step, photo.width), y: within(from.y + dy * step, photo.height),
    };
    if (view.cursor.corner) view.rubber = between(view, view.cursor.corner, view.cursor);
    view.reveal(view.cursor);
    act.hover(view.cursor.corner ? null : view.cursor);
    return true;
  }
  if (event.key === " ") {
    const { x, y, corner } = view.cursor ?? { x: photo.width / 2, y: photo.height / 2 };
    view.cursor = { x, y };
    if (corner) finishBox(view, act, corner);
    else act.click(x, y, event.shiftKey || act.mode() === "subtract" ? 0 : 1);
    return true;
  }
  if (event.key.toLowerCase() === "b" && !event.ctrlKey && !event.metaKey) {
    const { x, y, corner } = view.cursor ?? { x: photo.width / 2, y: photo.height / 2 };
    view.cursor = corner ? { x, y } : { x, y, corner: { x, y } };
    if (corner) finishBox(view, act, corner);
    else act.say("First corner is set. Move with the arrows, then press B or space at the opposite corner.");
    view.draw();
    return true;
  }
  if (event.key === "Enter") { act.next(); return true; }
  return false;
}

function finishBox(view, act, corner) {
  const box = between(view, corner, view.cursor);
  view.rubber = null;
  if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) act.drag(box);
  view.draw();
}

/** Keys that mean the same wherever the focus is. */
function anywhere(event, view, act) {
  const key = event.key.toLowerCase();
  const command = event.ctrlKey || event.metaKey;
  if (key === "z") { if (event.shiftKey) act.redo(); else act.undo(); return true; }
  if (key === "y" && command) { act.redo(); return true; }
  if (command) return false;
  if (key === "escape") {
    if (view.cursor?.corner || view.rubber) { view.rubber = null; if (view.cursor) view.cursor.corner = null; view.draw(); }
    else act.cancel();
    return true;
  }
  if (key === "n") { act.next(); return true; }
  if (key === "e") { act.everything(); return true; }
  if ("0123".includes(key)) { act.choose(Number(key)); return true; }
  if (key === "+" || key === "=") { view.enlarge(1.25); return true; }
  if (key === "-") { view.enlarge(0.8); return true; }
  if (key === "f") { view.fit(); return true; }
  return false;
}
