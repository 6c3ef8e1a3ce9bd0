import { countDigits, inFull, inShort } from "./digits.js";
import { LOST, events } from "./events.js";
import { plot } from "./plot.js";

const at = (id) => document.getElementById(id);
const input = at("numbers");
const cancel = at("cancel");
const LONG = 60; // A number of more digits is shown in short.

/** One run, from Compute to its end: what came, and what the page does not show yet. */
class Run {
  constructor() {
    this.controller = new AbortController();
    this.total = 0;
    this.failed = 0;
    this.points = [];
    this.rows = [];
    this.drawing = 0;
  }

  get seen() {
    return this.points.length + this.failed;
  }

  async follow(url) {
    let done = false;
    for await (const { event, data } of events(url, this.controller.signal)) {
      if (event === "start") this.start(data.total);
      else if (event === "result") this.result(data);
      else if (event === "problem") this.problem(data);
      else if (event === "done") done = true;
      this.draw();
    }
    if (!done) throw new Error(LOST);
  }

  start(total) {
    this.total = total;
    at("answers").hidden = false;
    say(`Computing ${count(total)} ${total === 1 ? "number" : "numbers"}.`);
  }

  result({ n, value }) {
    const digits = countDigits(value);
    this.points.push({ n, digits });
    this.rows.push(row(n, digits, digits > LONG ? folded(value) : inFull(value)));
  }

  problem({ n, detail }) {
    this.failed += 1;
    if (this.failed === 1) complain(detail); // One is enough to read out; the table has all of them.
    const failure = row(n, "", detail);
    failure.lastChild.className = "bad";
    this.rows.push(failure);
  }

  /** Show what is new, once for all that comes between two frames. */
  draw() {
    this.drawing ||= requestAnimationFrame(() => this.show());
  }

  show() {
    cancelAnimationFrame(this.drawing);
    this.drawing = 0;
    if (run !== this) return; // Another run has the page now.
    at("progress").max = this.total || 1;
    at("progress").value = this.seen;
    at("count").textContent = this.total ? `${count(this.seen)} of ${count(this.total)}` : "";
    at("results").append(...this.rows.splice(0));
    plot(at("plot"), this.points);
  }
}

let run = null;

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  run?.controller.abort();
  const mine = (run = new Run());
  clear();
  cancel.disabled = false;
  try {
    await mine.follow(`fibonacci/stream?${query(input.value)}`);
    if (run === mine) say(summary(mine));
  } catch (error) {
    if (run !== mine) return;
    if (error.name === "AbortError") say(mine.total ? `Cancelled after ${count(mine.seen)} of ${count(mine.total)}.` : "Cancelled.");
    else if (mine.total) complain(error.message);
    else refuse(error.message);
  } finally {
    if (run === mine) {
      mine.show();
      leave();
    }
  }
});

cancel.addEventListener("click", () => run?.controller.abort());

/** Make a query of what was typed. What is a number is for the service to say. */
function query(typed) {
  const wanted = typed.split(/[\s,;]+/).filter(Boolean);
  if (!wanted.length) throw new Error("Enter a number, such as 10.");
  return new URLSearchParams(wanted.map((each) => ["n", each]));
}

function clear() {
  at("results").replaceChildren();
  at("answers").hidden = true;
  at("progress").value = 0;
  at("count").textContent = "";
  input.removeAttribute("aria-invalid");
  complain("");
  say("");
}

/** Say what is wrong with the input, and go there. */
function refuse(why) {
  complain(why);
  input.setAttribute("aria-invalid", "true");
  input.focus();
}

/** Nothing runs any more. A button that is about to be disabled must not take the focus with it. */
function leave() {
  if (document.activeElement === cancel) input.focus();
  cancel.disabled = true;
}

function summary({ total, failed }) {
  return failed ? `${count(total - failed)} of ${count(total)} computed, ${count(failed)} failed.` : `Done: ${count(total)} of ${count(total)}.`;
}

function say(text) {
  at("status").textContent = text;
}

function complain(text) {
  at("problem").textContent = text;
}

function count(number) {
  return number.toLocaleString("en");
}

/** A row of the table. Everything is set as text: nothing that comes from elsewhere becomes markup. */
function row(...cells) {
  const made = document.createElement("tr");
  for (const cell of cells) made.insertCell().append(typeof cell === "number" ? count(cell) : cell);
  return made;
}

/** A long number in short, which is written in full when it is opened. */
function folded(value) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const whole = document.createElement("span");
  summary.textContent = inShort(value);
  details.append(summary, whole);
  details.addEventListener("toggle", () => (whole.textContent = details.open ? inFull(value) : ""));
  return details;
}
