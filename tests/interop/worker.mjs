// A worker in JavaScript: node worker.mjs redis://localhost:6379/0 queue
import { setTimeout } from "node:timers/promises";
import celery from "celery-node";

const [url, queue] = process.argv.slice(2);
const worker = celery.createWorker(url, url, queue);

worker.register("js.add", (a, b) => a + b);
worker.register("js.echo", (...args) => args); // Keyword arguments come last, as an object, also when there are none.
worker.register("js.sleep", async (seconds) => {
  await setTimeout(1000 * seconds);
  return seconds;
});
worker.register("js.factorial", (n) => {
  let product = 1n;
  for (let factor = 2n; factor <= n; factor++) product *= factor;
  return product.toString(16); // As text: JSON has no BigInt, and a number would keep 53 bits.
});
worker.register("js.fail", () => {
  throw new Error("no luck"); // The message is lost: celery-node stores {} for an Error.
});
worker.register("js.fail_with_text", () => Promise.reject("no luck"));

worker.start();
