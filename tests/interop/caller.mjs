// Calls a fibo worker from JavaScript: node caller.mjs redis://localhost:6379/0
import celery from "celery-node";

const [url] = process.argv.slice(2);
const client = celery.createClient(url, url);

function call(task, ...args) {
  return client.createTask(task).applyAsync(args).get(10_000, 50); // Waits 10 s at most, and asks every 50 ms.
}

// A Fibonacci number comes as hexadecimal text. BigInt keeps every digit of it; a number would keep 53 bits.
const f100 = BigInt("0x" + (await call("fibo.fibonacci", 100)));
console.log("F(100) =", f100.toString());

// Many in one task: for each number its text, or {error: [type, message]}.
for (const item of await call("fibo.fibonacci_chunk", [4, 3, 8, -1])) {
  console.log(typeof item === "string" ? BigInt("0x" + item).toString() : item.error.join(": "));
}

const [n, sentence] = await call("tasks.fibo_task", 100);
console.log(n, sentence.split(" ").at(-1));
console.log("square root", await call("tasks.sqrt_task", 2.25));

// When a task fails, the promise rejects with what Celery stores of an exception.
try {
  await call("fibo.fibonacci", -1);
} catch (error) {
  console.log(error.message, error.exc_type, error.exc_message);
}

await client.disconnect();
