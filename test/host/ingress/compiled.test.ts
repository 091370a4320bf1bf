// The proxy as it ships: compiled, in a process of its own, whose memory does not grow with what goes through it.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { TempDir } from "../../support/paths.ts";

const MB = 1024 * 1024;
const SIZE = 200 * MB;
/** What a garbage collector may leave lying about; a body that is kept would take all of SIZE. */
const GROWTH_MAX_KB = 64 * 1024;

const folder = new TempDir("ingress");
const program = folder.join("proxy");
beforeAll(async () => {
  const built = await Bun.build({ entrypoints: [join(import.meta.dir, "proxy-main.ts")], target: "bun", format: "esm", bytecode: true, compile: { outfile: program } });
  expect(built.success).toBe(true);
}, 120_000);
afterAll(() => folder[Symbol.dispose]());

/** Lines of a process, one by one. */
async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, string> {
  let rest = "";
  for await (const chunk of stream) {
    const parts = (rest + Buffer.from(chunk).toString()).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
  return rest;
}

const zeros = (size: number) => {
  let left = size;
  return new ReadableStream<Uint8Array>({ pull: (controller) => { if (left <= 0) return controller.close(); left -= MB; controller.enqueue(new Uint8Array(MB)); } });
};

async function count(stream: ReadableStream<Uint8Array> | null): Promise<number> {
  let total = 0;
  if (stream !== null) for await (const part of stream) total += part.length;
  return total;
}

test("200 MB up and 200 MB down leave its memory as it was", async () => {
  using target = Bun.serve({
    port: 0, hostname: "127.0.0.1", maxRequestBodySize: SIZE * 2,
    fetch: async (request, server) => server.upgrade(request) ? undefined : new Response(request.method === "GET" ? zeros(Number(new URL(request.url).search.slice(1))) : String(await count(request.body))),
    websocket: { message: (ws, data) => void ws.send(data) },
  });
  const child = Bun.spawn([program, String(target.port)], { stdin: "pipe", stdout: "pipe" });
  const said = lines(child.stdout);
  const next = async () => (await said.next()).value;
  const url = `http://127.0.0.1:${await next()}`;
  const down = async (size: number) => count((await fetch(`${url}/?${size}`, { headers: { host: "a.test" } })).body);
  const up = async (size: number) => Number(await (await fetch(url, { method: "POST", headers: { host: "a.test" }, body: zeros(size) })).text());
  const largest = async () => { child.stdin.write("\n"); await child.stdin.flush(); return Number(await next()); };

  expect([await down(32 * MB), await up(32 * MB)]).toEqual([32 * MB, 32 * MB]);
  const before = await largest();
  expect(before).toBeGreaterThan(0);
  expect([await down(SIZE), await up(SIZE)]).toEqual([SIZE, SIZE]);
  expect((await largest()) - before).toBeLessThan(GROWTH_MAX_KB);
  const socket = new WebSocket(`${url.replace("http", "ws")}/`, { headers: { host: "a.test" } } as unknown as string[]);
  await new Promise((resolve) => { socket.onopen = resolve; });
  const echo = new Promise<unknown>((resolve) => { socket.onmessage = ({ data }) => resolve(data); });
  socket.send("hello");
  expect(await echo).toBe("hello");
  socket.close();
  child.kill();
  await child.exited;
}, 120_000);
