import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { type Api, startApi, until } from "./harness.ts";

let api: Api;
beforeEach(async () => {
  api = startApi();
  await api.client.instances.create({ name: "web", image: "nginx" });
});
afterEach(() => api.stop());

const read = async (query: Parameters<typeof api.client.instances.logs>[1] = {}) => {
  const lines: string[] = [];
  for await (const line of await api.client.instances.logs("web", query)) lines.push(line);
  return lines;
};

describe("logs", () => {
  test("each event is a line, whatever is in it", async () => {
    const lines = ["plain", "", "  spaces  ", 'quotes " and \\', "12", "null", "[DONE]", "data: x", "tab\tbell\u0007", "naïve 語 🐭", "\u2028 separator", "carriage\rreturn"];
    api.instances.lines = lines;
    expect(await read()).toEqual(lines);
    expect(api.instances.calls).toEqual(["logs app 100 false"]);
  });
  test("passes source, tail and follow on; the contract's name for our own log is hypeman", async () => {
    api.instances.lines = ["1", "2", "3"];
    expect(await read({ source: "hypeman", tail: 2 })).toEqual(["2", "3"]);
    await read({ source: "vmm", tail: 5 });
    expect(api.instances.calls).toEqual(["logs dormouse 2 false", "logs vmm 5 false"]);
  });
  test("a comment goes out at once, and there is no event without data", async () => {
    const response = await fetch(`${api.url}/instances/web/logs?follow=true`);
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "text/event-stream"]);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe(":\n\n");
    await reader.cancel();
    await until(() => api.instances.calls.includes("logs aborted"));
  });
  test("a failure resets the connection instead of looking like the end", async () => {
    api.instances.lines = ["one"];
    api.instances.failLog = new Error("the disk is gone");
    const outcome = fetch(`${api.url}/instances/web/logs`).then((response) => response.text()).then(() => "ended", () => "reset");
    expect(await outcome).toBe("reset");
    expect(api.log.join("")).toContain("the disk is gone");
  });
  test("resets the connection when the daemon stops", async () => {
    const response = await fetch(`${api.url}/instances/web/logs?follow=true`);
    const text = response.text().then(() => "ended", () => "reset");
    await api.stop();
    expect(await text).toBe("reset");
  });
  test("reads no faster than the client takes, and lets go of the log of one that leaves in the middle", async () => {
    let made = 0, over = false;
    api.instances.logs = (ref) =>
      api.instances.get(ref).map(async function* () {
        try {
          for (; made < 1_000_000; made += 1) yield "x".repeat(1000);
        } finally {
          over = true;
        }
      });
    const response = await fetch(`${api.url}/instances/web/logs`);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    let before = -1;
    // The sockets' buffers fill up, and then nothing more is made.
    await until(() => before === (before = made));
    expect(made).toBeLessThan(100_000);
    await reader.cancel();
    await until(() => over);
  });
  test("an unknown instance is 404", async () => {
    expect(await api.client.instances.logs("nobody").then(() => 200, (error: { status: number }) => error.status)).toBe(404);
  });
});
