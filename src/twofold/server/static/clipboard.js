// Text that crosses, where the company lets it: by hand, so that a person sees what goes and what came.
export function clipboard(view) {
  const at = id => document.getElementById(id);
  const dialog = at("clipboard"), field = at("clip"), button = at("clips");
  let allowed = {to_work: false, from_work: false};

  button.addEventListener("click", () => dialog.showModal());
  at("clip-close").addEventListener("click", () => dialog.close());
  at("clip-send").addEventListener("click", () => { view()?.clipboardPasteFrom(field.value); dialog.close(); view()?.focus(); });

  return {
    begin(rules) {
      allowed = rules;
      button.hidden = !rules.to_work && !rules.from_work;
      at("clip-send").hidden = !rules.to_work;
      at("crossing").textContent = rules.to_work && rules.from_work ? "What was copied there appears here. Send puts your text on its clipboard."
        : rules.to_work ? "Send puts your text on its clipboard. Your company does not let text out."
        : "What was copied there appears here. Your company does not let text in.";
    },
    came(text) { if (allowed.from_work) field.value = text; },
    end() { button.hidden = true; if (dialog.open) dialog.close(); },
  };
}
