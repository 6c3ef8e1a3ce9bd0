/** Server-sent events, read with fetch: an EventSource does not tell why a request was refused, and asks again by itself. */

export const LOST = "The connection to the service failed.";

const TOO_MUCH = "That is too much for one request. Ask for fewer numbers, or for ranges.";

/** The address that every server and proxy takes is no longer. */
const LONG = 8000;

/**
 * Ask for a stream of events.
 * @param {string} url
 * @param {AbortSignal} signal Ends the request, and the generator with an AbortError.
 * @yields {{event: string, data: any}}
 */
export async function* events(url, signal) {
  try {
    const response = await fetch(url, { signal, headers: { Accept: "text/event-stream" } });
    if (!response.ok) throw new Error(await reason(response));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const blocks = (rest + read.value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event.data !== undefined) yield event; // else it was a comment that keeps the connection open
      }
    }
  } catch (error) {
    // That is what fetch throws. A server may close before it has read a long address, so that its answer is lost.
    if (error instanceof TypeError) throw new Error(url.length > LONG ? TOO_MUCH : LOST, { cause: error });
    throw error;
  }
}

/** Read the lines of one event. This service sends one line of data in each. */
function parse(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  return { event: fields.event, data: fields.data && JSON.parse(fields.data) };
}

/** Say why a response is none, in the words of its problem document if there is one. */
async function reason(response) {
  const fallback = `The service answered ${response.status}.`;
  try {
    return (await response.json()).detail ?? fallback;
  } catch {
    // It is the server's answer, or a proxy's. These are what they say to an address that is too long for them.
    return [400, 414, 431].includes(response.status) ? TOO_MUCH : fallback;
  }
}
