// What a click would give, shown while the pointer moves, where the model is fast enough for it.

import { placed } from "./masks.mjs";
import { isAsked, shownSlot, SLOTS } from "./state.mjs";
import { tinted } from "./view.mjs";

const SECONDS = 0.08;
/** A model that answers a click in less is asked while the pointer moves. */
const FAINT = 0.6;

/** A function that takes the place under the pointer, or null; `inside` tells what the page holds just now. */
export function hovering(view, inside) {
  let next = null, busy = false, over = false;
  const wanted = (answers) => {
    const now = inside();
    return now.answers !== null && now.answers === answers && now.engines.length === 1 && !isAsked(now.session.object);
  };

  return async (place) => {
    const { engines, answers } = inside();
    view.ghost = null;
    next = place;
    over = place !== null;
    if (!place) return view.draw();
    if (busy || !wanted(answers) || (engines[0].about.click ?? 0) > SECONDS) return;
    busy = true;
    while (next && wanted(answers)) {
      const { x, y } = next;
      next = null;
      const { session, mode } = inside();
      const object = { points: [{ x, y, label: mode === "subtract" ? 0 : 1 }], box: null, chosen: null };
      const found = await engines[0].decode(object, SLOTS).catch(() => null);
      if (!found || !over || !wanted(answers)) break;
      const mask = placed(found.masks[shownSlot(object, found.scores)], found.place, ...view.size);
      view.ghost = tinted(mask, ...view.size, session.object.colour, FAINT);
      view.draw();
    }
    busy = false;
  };
}
