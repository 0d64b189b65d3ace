// Typing on a phone: its keyboard writes into a field that nobody sees, and what changes there is sent as keys.
import KeyTable from "./novnc/core/input/keysym.js";
import keysyms from "./novnc/core/input/keysymdef.js";

const KEYS = {
  Escape: KeyTable.XK_Escape, Tab: KeyTable.XK_Tab, ArrowLeft: KeyTable.XK_Left, ArrowUp: KeyTable.XK_Up, ArrowDown: KeyTable.XK_Down,
  ArrowRight: KeyTable.XK_Right,
};
const HELD = {Control: [KeyTable.XK_Control_L, "ControlLeft"], Alt: [KeyTable.XK_Alt_L, "AltLeft"]};
const PAD = "_".repeat(100);  // something to delete, so that every backspace is seen

export function keyboard(view) {
  const field = document.getElementById("typed"), row = document.getElementById("keys"), button = document.getElementById("keyboard");
  let former = PAD;

  function reset() { field.value = former = PAD; field.setSelectionRange(PAD.length, PAD.length); }

  function press(keysym, code = null) {
    const rfb = view();
    if (!rfb) return;
    const held = [...row.querySelectorAll("[aria-pressed=true]")];
    for (const each of held) rfb.sendKey(...HELD[each.dataset.hold], true);
    rfb.sendKey(keysym, code);
    for (const each of held) { rfb.sendKey(...HELD[each.dataset.hold], false); each.setAttribute("aria-pressed", "false"); }
  }

  function type(text) {
    for (const letter of text) press(letter === "\n" ? KeyTable.XK_Return : keysyms.lookup(letter.codePointAt(0)));
  }

  field.addEventListener("input", () => {
    const now = field.value;
    let same = 0;
    while (same < former.length && same < now.length && former[same] === now[same]) same += 1;
    for (let left = former.length - same; left > 0; left -= 1) press(KeyTable.XK_BackSpace, "Backspace");
    type(now.slice(same));
    former = now;
    if (now.length < PAD.length / 2 || now.length > 2 * PAD.length) reset();
  });
  field.addEventListener("blur", () => { row.hidden = true; });

  return {
    begin() {
      button.addEventListener("click", () => {
        if (!row.hidden) return field.blur();
        reset();
        row.hidden = false;
        field.focus();
      });
      row.addEventListener("pointerdown", event => event.preventDefault());  // the field keeps the keyboard open
      row.addEventListener("click", event => {
        const {key, hold} = event.target.dataset;
        if (key) press(KEYS[key], key);
        if (hold) event.target.setAttribute("aria-pressed", String(event.target.getAttribute("aria-pressed") !== "true"));
      });
    },
  };
}
