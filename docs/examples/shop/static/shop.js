const find = (id) => document.getElementById(id);
const say = (id, text) => { find(id).textContent = text; };

// What a service says of an error, as RFC 9457 has it; FastAPI has its own form for bad input.
async function detail(answer) {
  const { detail } = await answer.json();
  return typeof detail === "string" ? detail : detail[0].msg;
}

find("picture").addEventListener("submit", async (event) => {
  event.preventDefault();
  say("picture-said", "");
  const answer = await fetch("pictures", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name: find("name").value }),
  });
  if (!answer.ok) {
    say("picture-said", await detail(answer));
    return;
  }
  const { id } = await answer.json();
  const events = new EventSource(`tasks/${id}/events`);
  events.addEventListener("state", ({ data }) => {
    const { progress } = JSON.parse(data);
    if (progress) {
      find("progress").max = progress.total;
      find("progress").value = progress.done;
    }
  });
  events.addEventListener("done", ({ data }) => {
    events.close(); // Else it would ask again.
    const { state, result } = JSON.parse(data);
    say("picture-said", state === "SUCCESS" ? `Done: ${result}.` : "It failed.");
  });
  events.addEventListener("problem", ({ data }) => {
    events.close();
    say("picture-said", JSON.parse(data).detail);
  });
});

find("report").addEventListener("click", async () => {
  const leaving = new AbortController();
  find("leave").onclick = () => leaving.abort();
  find("leave").disabled = false;
  say("report-said", "It takes a while.");
  try {
    const answer = await fetch("reports/2026", { signal: leaving.signal });
    say("report-said", answer.ok ? `Done: ${await answer.json()}.` : await detail(answer));
  } catch {
    say("report-said", leaving.signal.aborted ? "Left. The worker has stopped, too." : "The connection failed.");
  }
  find("leave").disabled = true;
});

find("prices").addEventListener("click", async () => {
  const names = ["apple", "bread", "cake", "dates"];
  const items = Array.from({ length: 500 }, (_, n) => names[n % names.length]);
  const answer = await fetch("prices", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ items }),
  });
  if (!answer.ok) {
    say("prices-said", await detail(answer));
    return;
  }
  let lines = 0;
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    lines += text.split("\n").length - 1;
    say("prices-said", `${lines} of ${items.length} prices`);
  }
});
