// What pages ask of the server: JSON, from here, by whoever is signed in. An error is three sentences.
export const root = document.body.dataset.root;

export class Refused extends Error {
  constructor(status, said) {
    super(said.happened);
    this.status = status;
    this.safe = said.safe || "";
    this.next = said.next || "";
  }
}

export async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(`${root}/${path}`, {
      method, credentials: "same-origin", cache: "no-store", headers: method === "POST" ? {"Content-Type": "application/json"} : {},
      body: method === "POST" ? JSON.stringify(body ?? {}) : undefined,
    });
  } catch {
    throw new Refused(0, {
      happened: "The server cannot be reached.", safe: "Nothing is lost; your work goes on where it is.",
      next: "Look at this device's network. This page tries again by itself.",
    });
  }
  let said = {};
  try { said = await answer.json(); } catch { said = {}; }
  if (answer.ok) return said;
  throw new Refused(answer.status, said.error ?? {
    happened: `The server answered with status ${answer.status}.`, safe: "Nothing is lost; your work goes on where it is.", next: "Try again.",
  });
}

// Where a desktop is, in words for its card.
export function where(desktop) {
  switch (desktop.state) {
    case "open": return `Running here online, on ${desktop.place || "a node"}`;
    case "away": return `On ${desktop.place}, which can't be reached now`;
    case "opening": return "Being opened here online";
    case "leaving": return "On its way to a device of yours";
    case "elsewhere": return `On ${desktop.place}`;
    case "failed": return "Could not be opened";
    default: return "On the server, ready to open";
  }
}
