// One desktop's screen: asks for it to be opened, shows it, says where it is when it is not here, and comes back by itself.
import RFB from "./novnc/core/rfb.js";
import {Refused, ask, root} from "./server.js";
import {keyboard} from "./keyboard.js";
import {clipboard} from "./clipboard.js";

const PROTOCOL = "twofold-screen-1";
const TAKEN = 4001, ENDED = 4003, IDLE = 4005, BUSY = 4006;
const CALM = 8000;  // a node that is away for less is just connecting again
const name = document.body.dataset.name;
const at = id => document.getElementById(id);
const title = at("title").textContent, stage = at("stage"), last = at("last"), status = at("status"), notice = at("notice");

let rfb = null, desktop = null, opened = false, wanted = true, tries = 0, awaySince = 0;
const keys = keyboard(() => rfb);
const clips = clipboard(() => rfb);

const wait = ms => new Promise(done => setTimeout(done, ms));

function say(text) { status.textContent = text; }

function tell(said, {again = "", spin = false} = {}) {
  at("happened").textContent = said.happened ?? said.message;
  at("safe").textContent = said.safe ?? "";
  at("next").textContent = said.next ?? "";
  at("again").hidden = !again;
  at("again").textContent = again;
  at("spin").hidden = !spin;
  notice.hidden = false;
}

// The last picture stays, dimmed, so that nobody takes it for a live one and nobody looks at nothing.
function keep() {
  const canvas = stage.querySelector("#screen canvas");
  if (!canvas || !canvas.width) return;
  last.width = canvas.width;
  last.height = canvas.height;
  last.getContext("2d").drawImage(canvas, 0, 0);
  last.hidden = false;
}

// One line, from its ticket to its end; resolves with the code of its end.
async function line() {
  const {ticket} = await ask("POST", `desktops/${name}/ticket`);
  const socket = new WebSocket(`wss://${location.host}${root}/screen`, [PROTOCOL, `ticket.${ticket}`]);
  socket.binaryType = "arraybuffer";
  const ended = new Promise(done => socket.addEventListener("close", event => done(event.code)));
  const alive = setInterval(() => { if (socket.readyState === WebSocket.OPEN) socket.send("alive"); }, 20000);
  const view = new RFB(at("screen"), socket, {shared: true});
  view.scaleViewport = true;
  view.resizeSession = matchMedia("(min-width: 601px)").matches;
  view.showDotCursor = true;
  view.background = "#0c0f13";
  view.addEventListener("connect", () => {
    rfb = view;
    tries = 0;
    last.hidden = notice.hidden = true;
    say(`Connected, on ${desktop.place || "a node"}`);
    document.body.dataset.live = "yes";
    clips.begin(desktop.clipboard);
    view.focus();
  });
  view.addEventListener("clipboard", event => clips.came(event.detail.text));
  view.addEventListener("securityfailure", () => socket.close());
  const code = await ended;
  clearInterval(alive);
  keep();
  rfb = null;
  delete document.body.dataset.live;
  clips.end();
  view.disconnect();
  return code;
}

async function open() {
  opened = true;
  tell({happened: `Opening ${title}…`, safe: "It comes from its last back up; the first time takes a minute."}, {spin: true});
  desktop = await ask("POST", `desktops/${name}/open`);
}

// What the present state asks for; true where it is time for a line.
async function settle() {
  desktop = await ask("GET", `desktops/${name}`);
  document.body.dataset.state = desktop.state;
  if (desktop.state !== "away") awaySince = 0;
  switch (desktop.state) {
    case "open":
      opened = true;
      return true;
    case "ready":
      if (!opened) await open();
      else {
        say("Off");
        tell({happened: `${title} is off.`, safe: "All of it is saved.", next: "Open it to start it again."}, {again: "Open"});
      }
      return false;
    case "opening":
      opened = true;
      say("Opening…");
      tell({happened: `Opening ${title}…`, safe: "It comes from its last back up; the first time takes a minute."}, {spin: true});
      return false;
    case "away":
      awaySince = awaySince || Date.now();
      say("Connecting…");
      if (Date.now() - awaySince > CALM) tell({
        happened: `${desktop.place}, where ${title} runs, can't be reached.`,
        safe: "What was saved is on it, sealed. " + (desktop.backed_up ? `It was last backed up ${new Date(desktop.backed_up * 1000).toLocaleString()}.` : ""),
        next: "This page comes back by itself. If it stays so, tell your administrator.",
      }, {spin: true});
      return false;
    default:
      say(desktop.state === "elsewhere" ? `On ${desktop.place}` : desktop.state === "leaving" ? "Leaving" : "Not open");
      tell(desktop, {again: desktop.state === "failed" ? "Try again" : "", spin: desktop.state === "leaving"});
      return false;
  }
}

async function run() {
  while (wanted) {
    try {
      if (!await settle()) { await wait(1000); continue; }
      const code = await line();
      if (code === TAKEN) return over("It is open in another window now.", "Nothing is lost: it is the same desktop.", "Open here");
      if (code === IDLE) return over("This page was asleep for a while.", `${title} goes on running.`, "Open");
      if (code === BUSY) return over("You have too many desktops open.", "Nothing was changed.", "Try again");
      say(code === ENDED ? "Closed" : "The line broke; connecting again…");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401) return location.reload();
      keep();
      say("Not connected");
      if (error.status === 0) tell(error, {spin: true});
      else { opened = true; tell(error, {again: "Try again"}); }
    }
    tries += 1;
    await wait(Math.min(5000, 250 * 2 ** Math.min(tries, 5)));
  }
}

function over(happened, safe, again) {
  wanted = false;
  say("Not connected");
  tell({happened, safe}, {again});
}

at("again").addEventListener("click", async () => {
  const stopped = !wanted;
  wanted = true;
  opened = false;
  notice.hidden = true;
  try { await open(); } catch (error) { tell(error, {again: "Try again"}); }
  if (stopped) run();
});
at("cad").addEventListener("click", () => rfb?.sendCtrlAltDel());
at("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {});
});
at("full").hidden = !document.documentElement.requestFullscreen;
keys.begin();
run();
