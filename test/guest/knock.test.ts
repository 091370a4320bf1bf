// Waking by packets: a sleeping server answers a plain request, and whoever comes while it falls asleep loses nothing.
import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { command } from "../support/command.ts";
import { taps } from "../support/daemon.ts";
import { page } from "../support/request.ts";
import { Site } from "../support/site.ts";
import { served, until } from "../support/until.ts";

const LONG = process.env["DORMOUSE_LONG"] === "1";
const ROUNDS = LONG ? 2000 : 100;
/** Some five times what a round takes. */
const ROUNDS_LIMIT_MS = ROUNDS * 10_000;
const LIMIT_MS = 300_000;
/** Clients of each round. */
const CLIENTS = 4;
const PUBLISHED = 18080;
/** Never goes to sleep by itself, and wakes by packet. */
const POLICY = { enabled: true, idle_timeout: "1h" };

let site: Site;
let ip: string;
beforeAll(async () => {
  site = await Site.start(["nginx"]);
  const web = await site.boot("web", "nginx", { auto_standby: POLICY, port_mappings: [{ guest_port: 80, host_port: PUBLISHED }] });
  ip = web.network!.ip!;
  await served(`http://${ip}/`);
}, 300_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
}, 300_000);
beforeEach(async () => {
  if ((await site.get("web")).state === "Standby") await site.verb("web", "restore");
});

const state = async () => (await site.get("web")).state;
const wakes = () => site.told("web", "awake: ");
/** It is told once all is let go: its server may have answered by then. */
const wokeOnce = async (before: number) => {
  await until("the wake to be told", async () => (await wakes()) > before);
  expect(await wakes()).toBe(before + 1);
};
const policy = (change: object) => site.daemon.api("PATCH", "/instances/web", { auto_standby: { ...POLICY, ...change } });

for (const [how, host, port] of [["its address", () => ip, 80], ["a published port", () => "127.0.0.1", PUBLISHED]] as const)
  test(`a request by ${how} wakes a sleeping server and is answered`, async () => {
    await site.verb("web", "standby");
    const before = await wakes();
    expect(await page(host(), port)).toContain("It is nginx");
    expect(await state()).toBe("Running");
    await wokeOnce(before);
  }, LIMIT_MS);

const opened = (host: string, port: number): Promise<Socket> => new Promise((done, failed) => {
  const socket = connect({ host, port }, () => done(socket));
  socket.on("error", failed);
});

test("noise does not wake: ARP, DHCP, ping, and what is left of an old connection", async () => {
  const old = await opened(ip, 80);
  await site.verb("web", "standby");
  const before = await wakes();
  const [tap] = taps();
  // Nobody answers: these end with a failure.
  for (const noise of [["arping", "-c", "3", "-w", "3", "-I", tap!, ip], ["udhcpc", "-i", tap!, "-n", "-q", "-t", "2", "-T", "1", "-s", "/bin/true"], ["ping", "-c", "2", "-W", "1", ip]])
    await command(["busybox", ...noise]).catch(() => {});
  old.destroy();
  expect(await state()).toBe("Standby");
  // What would wake it comes in order: once this has, all before it has been looked at.
  expect(await page(ip, 80)).toContain("It is nginx");
  await wokeOnce(before);
}, LIMIT_MS);

test("where packets may not wake it, its port is closed", async () => {
  await policy({ wake_on_packet: false });
  await site.verb("web", "standby");
  for (const [host, port] of [[ip, 80], ["127.0.0.1", PUBLISHED]] as const) {
    const refused: unknown = await page(host, port).then(() => null, (error: unknown) => error);
    expect(String(refused)).toContain("ECONNREFUSED");
  }
  expect(await state()).toBe("Standby");
  await policy({});
  expect(await page(ip, 80)).toContain("It is nginx");
}, LIMIT_MS);

/**
 * What a request that is not answered leaves: which side knows its connection, and what has moved. A TAP counts as transmitted what its
 * monitor has read: where the guest has received less, it was not interrupted; where the TAP has received less than the guest has
 * transmitted, the monitor was not notified; where both agree, frames wait in the TAP, were dropped by its filter, or nobody answers.
 */
async function traffic(): Promise<string> {
  const ofGuest = site.exec("web", "/bin/cat", "/proc/net/tcp", "/proc/net/dev", "/proc/interrupts").catch(String);
  const seen = await Promise.race([ofGuest, Bun.sleep(10_000).then(() => "nothing: it runs no command")]);
  return `the host has:\n${readFileSync("/proc/net/tcp", "utf8")}${readFileSync("/proc/net/dev", "utf8")}the guest has:\n${seen}`;
}

/** The same sequence for a seed, which a failure tells. */
function randoms(seed: number): () => number {
  let x = seed;
  return () => ((x = (x * 1103515245 + 12345) % 2 ** 31) / 2 ** 31);
}

test(`clients that come at random moments of ${ROUNDS} standbys are all served`, async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 31), random = randoms(seed);
  const seen = { asleep: 0, calledOff: 0 };
  let standbyMs = 1000;
  for (let round = 0; round < ROUNDS; round++) {
    const broke = async (why: string) => { throw new Error(`Round ${round} of seed ${seed}: ${why}\n${await site.story("web")}\n${await traffic()}`); };
    await page(ip, 80).catch((error: unknown) => broke(String(error)));
    const started = performance.now();
    // The moment is what is tested: some before the standby begins to matter, some after its end.
    const clients = Array.from({ length: CLIENTS }, async () => {
      await Bun.sleep(random() * standbyMs * 1.5);
      expect(await page(ip, 80)).toContain("It is nginx");
    });
    const standby = site.verb("web", "standby").then(
      () => { seen.asleep++; standbyMs = performance.now() - started; },
      (error: unknown) => {
        if (!/: 409 .*"conflict"/.test(String(error))) throw error;
        seen.calledOff++;
      },
    );
    const failed = (await Promise.allSettled([...clients, standby])).filter((one) => one.status === "rejected").map((one) => String(one.reason));
    if (failed.length > 0) await broke(failed.join("; "));
  }
  console.log(`${ROUNDS} rounds: ${seen.asleep} asleep, ${seen.calledOff} called off`);
  expect(seen.asleep).toBeGreaterThan(0);
}, ROUNDS_LIMIT_MS);

test("many who knock at once are served by one wake", async () => {
  await site.verb("web", "standby");
  const before = await wakes();
  const pages = await Promise.all(Array.from({ length: 30 }, () => page(ip, 80)));
  expect(pages.every((text) => text.includes("It is nginx"))).toBe(true);
  await wokeOnce(before);
  await until("it to be awake", async () => (await state()) === "Running");
}, LIMIT_MS);
