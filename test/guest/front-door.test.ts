// Waking by requests that pass the daemon (ingress, exec), and going to sleep by itself.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { page } from "../support/request.ts";
import { Site } from "../support/site.ts";
import { served, until } from "../support/until.ts";

const INGRESS = 18081;
const LIMIT_MS = 300_000;
const POLICY = { enabled: true, idle_timeout: "1h" };

interface Status { readonly status: string; readonly reason: string; readonly active_inbound_connections: number; readonly hold_until?: string | null }

let site: Site;
let ip: string;
beforeAll(async () => {
  site = await Site.start(["nginx"]);
  ip = (await site.boot("web", "nginx", { auto_standby: POLICY })).network!.ip!;
  await served(`http://${ip}/`);
  await site.daemon.api("POST", "/ingresses", {
    name: "front", rules: [{ match: { hostname: "{instance}.example.com", port: INGRESS }, target: { instance: "{instance}", port: 80 } }],
  });
}, 300_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
}, 300_000);

const wakes = () => site.told("web", "awake: ");
const atDoor = (host = "web.example.com") => page("127.0.0.1", INGRESS, "/", { Host: host });
const policy = (change: object) => site.daemon.api("PATCH", "/instances/web", { auto_standby: { ...POLICY, ...change } });
const status = () => site.daemon.api<Status>("GET", "/instances/web/auto-standby/status");

test("ten requests through an ingress to a sleeping server are all served, by one wake", async () => {
  expect(await atDoor()).toContain("It is nginx");
  await site.verb("web", "standby");
  const before = await wakes();
  const pages = await Promise.all(Array.from({ length: 10 }, () => atDoor()));
  expect(pages.every((text) => text.includes("It is nginx"))).toBe(true);
  expect(await wakes()).toBe(before + 1);
  expect(await site.get("web")).toMatchObject({ state: "Running" });
}, LIMIT_MS);

test("an exec wakes it", async () => {
  await site.verb("web", "standby");
  expect(await site.daemon.run(["exec", "web", "echo", "awake"])).toBe("awake\n");
  expect(await site.get("web")).toMatchObject({ state: "Running" });
}, LIMIT_MS);

test("where waking is off, both are refused and it sleeps on", async () => {
  await policy({ wake_on_packet: false });
  await site.verb("web", "standby");
  expect((await site.daemon.try(["exec", "web", "true"])).status).toBe(125);
  expect(String(await atDoor().then(() => null, (error: unknown) => error))).toContain("answers 503");
  expect(await site.get("web")).toMatchObject({ state: "Standby" });
  await policy({});
  expect(await atDoor()).toContain("It is nginx");
}, LIMIT_MS);

test("it goes to sleep by itself once nobody is connected, and a request wakes it", async () => {
  const visitor = connect({ host: ip, port: 80 });
  await until("the visitor to be counted", async () => (await status()).active_inbound_connections === 1);
  await policy({ idle_timeout: "1s" });
  await until("its status", async () => (await status()).status === "active");
  expect(await status()).toMatchObject({ reason: "active_inbound_connections" });
  visitor.destroy();
  await site.reached("web", "Standby");
  expect(await status()).toMatchObject({ reason: "instance_not_running" });
  expect(await site.refused("POST", "/instances/web/auto-standby/hold")).toMatchObject({ status: 409, code: "instance_in_standby" });
  expect(await page(ip, 80)).toContain("It is nginx");
  await site.reached("web", "Standby");
  await policy({});
  expect(await atDoor()).toContain("It is nginx");
  expect(Date.parse((await site.daemon.api<Status>("POST", "/instances/web/auto-standby/hold")).hold_until ?? "")).toBeGreaterThan(Date.now());
}, LIMIT_MS);

test("an open exec keeps it awake", async () => {
  const exec = site.daemon.try(["exec", "-i", "web", "sleep", "100000"]);
  await until("the command in the guest", async () => (await site.exec("web", "ps", "-e", "-o", "args")).includes("sleep 100000"));
  expect(await site.refused("POST", "/instances/web/standby")).toMatchObject({ status: 409, code: "conflict" });
  await site.exec("web", "pkill", "-f", "sleep 100000");
  expect((await exec).status).not.toBe(0);
}, LIMIT_MS);

/** Files of each saved machine. */
const memory = () => readdirSync(join(site.daemon.dataDir, "memory")).map((generation) => readdirSync(join(site.daemon.dataDir, "memory", generation)));

test("compressed memory wakes, by either algorithm and before it is compressed", async () => {
  for (const algorithm of ["zstd", "lz4"] as const) {
    await site.verb("web", "standby", { compression: { enabled: true, algorithm, level: 1 }, compression_delay: "0s" });
    await until("the compressed memory", () => memory().some((names) => names.includes(`memory.${algorithm}`) && !names.includes("memory")));
    expect(await page(ip, 80)).toContain("It is nginx");
  }
  await site.verb("web", "standby", { compression: { enabled: true, algorithm: "zstd", level: 19 }, compression_delay: "0s" });
  expect(await page(ip, 80)).toContain("It is nginx");
}, LIMIT_MS);
