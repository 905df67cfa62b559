// What pages have in common that go on by themselves: how often, how to ask, and colours of states.

const EVERY = 2000;
const TONES = { RUNNING: "good", SUSPENDED: "idle", TERMINATED: "off" };

export function tone(state) {
  return TONES[state] ?? "busy";
}

// What a route of ours answers; null when it has nothing, or leads to the login.
export async function asked(url) {
  const answer = await fetch(url, { headers: { "hx-request": "true" } });
  const login = answer.headers.get("hx-redirect");
  if (login !== null) location.assign(login);
  return answer.ok ? answer.json() : null;
}

// Every other second while the page is seen, until there is nothing more to come.
export async function follow(ask, goesOn = () => true) {
  const lost = document.getElementById("lost");
  while (goesOn()) {
    try {
      if (!document.hidden) {
        await ask();
        lost.hidden = true;
      }
    } catch {
      lost.hidden = false;
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}
