// One chat, streamed, as any client of the gateway would ask for it.

import { Refused, blocks, send } from "./api.js";

/** Ask, and have `take(chunk)` called for every chunk; ends with the answer, and fails where it is cut. */
export async function ask(body, signal, take) {
  const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", wanted, signal);
  let ended = false;
  await blocks(response, (block) => {
    const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
    if (data === "[DONE]") ended = true;
    if (data === "" || ended) return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(200, chunk.error.code, chunk.error.message ?? String(chunk.error));
    take(chunk);
  });
  if (!ended) throw new Refused(0, "cut", "The answer broke off.");
}
