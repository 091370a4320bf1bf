// `dormouse ingress` as a process against the real HTTP layer and the real ingress domain.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { freePort } from "../host/ingress/world.ts";
import { type Api, startApi } from "../routes/harness.ts";
import { runCli } from "./support.ts";

const SECRET = "0123456789abcdef0123456789abcdef";
let api: Api;
beforeEach(async () => {
  api = startApi();
  api.images.add("nginx");
  await api.client.instances.create({ name: "web", image: "nginx" });
});
afterEach(() => api.stop());

const cli = (...args: string[]) => runCli(["ingress", ...args], { env: { DORMOUSE_HOST: api.url, DORMOUSE_INGRESS_AUTH: SECRET } });

test("create, list, inspect, rm", async () => {
  const port = freePort();
  const made = await cli("create", "site", "-r", "www.example.com=web:8080", "-r", "{i}.example.com={i}:80", "-p", String(port), "-t", "team=web");
  expect(made).toMatchObject({ status: 0, err: "" });
  const [ingress] = await api.client.ingresses.list();
  expect(made.out).toBe(`${ingress!.id}\n`);
  expect(ingress).toMatchObject({ name: "site", tags: { team: "web" }, rules: [{ match: { hostname: "www.example.com", port }, target: { instance: "web", port: 8080 } }, { target: { instance: "{i}", port: 80 } }] });
  const { out } = await cli("list");
  expect(out).toMatch(/^NAME +HOSTNAME +PORT +TARGET +ASKS FOR +CREATED\n/);
  expect(out).toMatch(new RegExp(`site +www\\.example\\.com +${port} +web:8080 `));
  expect((await cli("list", "-t", "team=other", "-q")).out).toBe("");
  expect(JSON.parse((await cli("list", "--json")).out)).toEqual([JSON.parse(JSON.stringify(ingress))]);
  expect(JSON.parse((await cli("get", "site")).out)).toMatchObject([{ name: "site" }]);
  expect(await cli("rm", "site", "nobody")).toMatchObject({ status: 1, out: "site\n", err: expect.stringContaining("nobody") });
  expect(await api.client.ingresses.list()).toEqual([]);
});

test("values of header fields are hidden unless asked for", async () => {
  const made = await cli("create", "site", "-r", "www.example.com=web:80", "-p", String(freePort()), "--auth-header", "X-Key", "--json");
  expect(made).toMatchObject({ status: 0, out: expect.not.stringContaining(SECRET) });
  expect((await api.client.ingresses.get("site")).rules[0]!.request_header_auth).toEqual({ header: "X-Key", value: SECRET });
  for (const args of [["list"], ["list", "--json"], ["inspect", "site"]]) expect((await cli(...args)).out).not.toContain(SECRET);
  expect((await cli("list")).out).toContain("X-Key");
  expect((await cli("inspect", "--show-secrets", "site")).out).toContain(SECRET);
});

test.each<[string, string[], string]>([
  ["no rule", ["create", "x"], "--rule"],
  ["a rule without a port", ["create", "x", "-r", "a.example.com=web"], "HOSTNAME=INSTANCE:PORT"],
  ["a port that is none", ["create", "x", "-r", "a.example.com=web:70000"], "HOSTNAME=INSTANCE:PORT"],
  ["a tag without a value", ["create", "x", "-r", "a.example.com=web:80", "-t", "team"], "KEY=VALUE"],
])("%s is wrong usage", async (_, args, said) => {
  const { status, err } = await cli(...args);
  expect([status, err]).toEqual([2, expect.stringContaining(said)]);
});
