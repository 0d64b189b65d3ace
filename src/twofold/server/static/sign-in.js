import {ask} from "./server.js";

const form = document.getElementById("sign-in"), wrong = document.getElementById("wrong");

form.addEventListener("submit", async event => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  wrong.hidden = true;
  try {
    await ask("POST", "session", {user: form.user.value.trim(), password: form.password.value});
    location.reload();  // the same address, signed in
  } catch (error) {
    wrong.textContent = [error.message, error.next].filter(Boolean).join(" ");
    wrong.hidden = false;
    form.password.value = "";
    form.password.focus();
    button.disabled = false;
  }
});
