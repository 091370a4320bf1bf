// login against a real registry that wants credentials, and one that hands out tokens.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmod, mkdir, stat, writeFile } from "node:fs/promises";
import { TempDir } from "../support/paths.ts";
import { Registry } from "../support/registry.ts";
import { startApi } from "../routes/harness.ts";
import { runCli } from "./support.ts";

const credentials = { username: "ada", password: "correct horse: battery" };
const folder = new TempDir("login");
let registry: Registry;
beforeAll(async () => {
  registry = await Registry.start({ credentials });
});
afterAll(async () => {
  await registry.stop();
  folder[Symbol.dispose]();
});

let homes = 0;
async function home(): Promise<{ HOME: string; file: string }> {
  const HOME = folder.join(`home${homes++}`);
  await mkdir(HOME);
  return { HOME, file: `${HOME}/.config/dormouse/auth.json` };
}
const login = (env: { HOME: string }, host: string, username: string, password: string, ...more: string[]) =>
  runCli(["login", host, "-u", username, "--password-stdin", ...more], { env: { HOME: env.HOME }, input: `${password}\n` });

describe("login", () => {
  test("keeps what the registry accepts, in a file that only its owner can read", async () => {
    const { HOME, file } = await home();
    const ended = await login({ HOME }, registry.host, credentials.username, credentials.password);
    expect(ended).toEqual({ status: 0, out: `Logged in to ${registry.host} as ada; kept in ${file}\n`, err: "" });
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect((await stat(`${HOME}/.config/dormouse`)).mode & 0o777).toBe(0o700);
    expect(await Bun.file(file).json()).toEqual({ auths: { [registry.host]: { auth: Buffer.from(`ada:${credentials.password}`).toString("base64") } } });
  });

  test("keeps nothing that the registry refuses, and no word of the password", async () => {
    const { HOME, file } = await home();
    const { status, out, err } = await login({ HOME }, registry.host, "ada", "wrong-secret", "--json");
    expect([status, out]).toEqual([1, ""]);
    expect(JSON.parse(err)).toEqual({ code: "unauthorized", message: `Cannot log in to ${registry.host}: it refused this user and password` });
    expect(await Bun.file(file).exists()).toBe(false);
  });

  test("keeps other registries' entries, replaces its own, and tightens a loose file", async () => {
    const { HOME, file } = await home();
    await mkdir(`${HOME}/.config/dormouse`, { recursive: true });
    await writeFile(file, JSON.stringify({ auths: { "ghcr.io": { auth: "eDp5" }, [`http://${registry.host}/v2/`]: { auth: "b2xkOm9sZA==" } }, note: 1 }));
    await chmod(file, 0o644);
    expect((await login({ HOME }, registry.host, credentials.username, credentials.password)).status).toBe(0);
    const kept = (await Bun.file(file).json()) as { auths: Record<string, unknown>; note: number };
    expect(Object.keys(kept.auths).sort()).toEqual([registry.host, "ghcr.io"].sort());
    expect(kept.note).toBe(1);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
  });

  test("speaks the token flow", async () => {
    using server: Bun.Server<undefined> = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request): Response => {
        const url = new URL(request.url);
        const realm = `${url.origin}/token`;
        if (url.pathname !== "/token") return new Response(null, { status: 401, headers: { "www-authenticate": `Bearer realm="${realm}",service="reg"` } });
        const good = url.searchParams.get("service") === "reg" && request.headers.get("authorization") === `Basic ${btoa("bob:token")}`;
        return good ? Response.json({ token: "t" }) : new Response(null, { status: 401 });
      },
    });
    const { HOME } = await home();
    expect((await login({ HOME }, `127.0.0.1:${server.port}`, "bob", "token")).status).toBe(0);
    expect((await login({ HOME }, `127.0.0.1:${server.port}`, "bob", "other")).status).toBe(1);
  });

  test("a registry that isn't there, a file that isn't JSON, and missing answers are clear errors", async () => {
    const { HOME, file } = await home();
    expect((await login({ HOME }, "127.0.0.1:1", "a", "b")).err).toStartWith("dormouse: Cannot reach the registry 127.0.0.1:1: ");
    await mkdir(`${HOME}/.config/dormouse`, { recursive: true });
    await writeFile(file, "secret but no JSON");
    const broken = await login({ HOME }, registry.host, credentials.username, credentials.password);
    expect(broken).toMatchObject({ status: 1, err: `dormouse: Cannot read credentials from ${file}: it is not a JSON object; correct or remove it\n` });
    expect((await login({ HOME }, registry.host, "a:b", "c")).status).toBe(2);
    expect((await runCli(["login", registry.host], { env: { HOME } })).status).toBe(2);
  });
});

test("pull sends what is on file: ours before Docker's, nothing for other registries", async () => {
  const { HOME, file } = await home();
  const api = startApi();
  try {
    const sent: unknown[] = [];
    const pull = api.images.pull.bind(api.images);
    api.images.pull = (request) => {
      sent.push(request.credentials);
      return pull(request).map((record) => api.images.add(record.name, { status: "ready" }));
    };
    await mkdir(`${HOME}/.docker`, { recursive: true });
    await mkdir(`${HOME}/.config/dormouse`, { recursive: true });
    const auth = (text: string) => ({ auth: btoa(text) });
    await writeFile(`${HOME}/.docker/config.json`, JSON.stringify({ auths: { "r1.test": auth("docker:1"), "r2.test": auth("docker:2"), "https://index.docker.io/v1/": auth("hub:3") } }));
    await writeFile(file, JSON.stringify({ auths: { "r1.test": auth("ours:1") } }));
    for (const name of ["r1.test/a", "r2.test/a", "nginx", "r3.test/a"]) expect((await runCli(["pull", "-q", name], { env: { HOME, DORMOUSE_HOST: api.url } })).status).toBe(0);
    expect(sent).toMatchObject([{ username: "ours", password: "1" }, { username: "docker", password: "2" }, { username: "hub", password: "3" }, undefined]);
  } finally {
    await api.stop();
  }
});
