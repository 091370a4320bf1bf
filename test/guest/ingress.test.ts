// The ingress of the executable before a real guest: served while it runs, and woken by requests while it sleeps.
import { afterAll, beforeAll, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { convertedImages, localName } from "../support/converted.ts";
import { Daemon } from "../support/daemon.ts";

const PORT = 8099;
let daemon: Daemon;
let client: Hypeman;

beforeAll(async () => {
  daemon = await Daemon.start({ seed: await convertedImages(["busybox"]) });
  client = new Hypeman({ apiKey: "any", baseURL: daemon.url, maxRetries: 0 });
}, 300_000);
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
}, 120_000);

const ask = async (host: string) => {
  const answer = await fetch(`http://127.0.0.1:${PORT}/`, { headers: { host } });
  return { status: answer.status, text: await answer.text() };
};

test("one request starts with the instance, ten wake it together", async () => {
  await daemon.run(["ingress", "create", "sites", "--port", String(PORT), "--rule", "{instance}.test={instance}:80"]);
  expect((await ask("web.test")).status).toBe(404);
  const { id } = await client.instances.create({ name: "web", image: localName("busybox"), size: "128MB", vcpus: 1, auto_standby: { enabled: true, idle_timeout: "1h" } });
  // Held until it runs, and until its program has opened its port.
  expect(await ask("web.test")).toEqual({ status: 200, text: expect.stringContaining("busybox") });
  expect((await ask("web.other")).status).toBe(404);

  expect((await client.instances.standby(id)).state).toBe("Standby");
  const answers = await Promise.all(Array.from({ length: 10 }, () => ask("web.test")));
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  expect((await client.instances.get(id)).state).toBe("Running");
  expect((await daemon.logs("web", "dormouse")).filter((line) => line.includes("awake: "))).toHaveLength(1);

  await daemon.api("POST", "/instances/web/stop?grace=1s"); // its server, as PID 1, is deaf to SIGTERM
  expect(await ask("web.test")).toEqual({ status: 503, text: expect.stringContaining("Stopped") });
}, 300_000);
