import {ask, where} from "./server.js";

const wrong = document.getElementById("wrong");

function show(desktop) {
  const card = document.querySelector(`.card[data-name="${CSS.escape(desktop.workspace)}"]`);
  if (!card) return location.reload();  // another one was given meanwhile
  const line = card.querySelector(".where"), button = card.querySelector(".button"), here = desktop.state !== "elsewhere";
  line.textContent = where(desktop);
  button.setAttribute("aria-disabled", String(!here));
  button.textContent = here ? "Open" : `Open it on ${desktop.place}`;
}

async function look() {
  try {
    for (const desktop of (await ask("GET", "desktops")).desktops) show(desktop);
    wrong.hidden = true;
  } catch (error) {
    if (error.status === 401) return location.reload();
    wrong.textContent = [error.message, error.next].filter(Boolean).join(" ");
    wrong.hidden = false;
  }
  setTimeout(look, document.hidden ? 15000 : 3000);
}

document.getElementById("sign-out").addEventListener("click", async () => {
  try { await ask("DELETE", "session"); } finally { location.reload(); }
});
look();
