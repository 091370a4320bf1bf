// Files in and out of real guests: by the contract's own client, and by command.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash, randomFillSync } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Hypeman from "@onkernel/hypeman";
import { cpFromInstance, cpToInstance } from "@onkernel/hypeman/lib/cp";
import { TempDir } from "../support/paths.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

let site: Site;
let client: Hypeman;
let temp: TempDir;
const LARGE_BYTES = 24 * 1024 * 1024;
const large = randomFillSync(Buffer.alloc(LARGE_BYTES));
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** What a program is made of, and what trips clients. */
const FILES = { "package.json": ['{"name":"x"}', 0o644], "forged.json": ['{"type":"end","final":true}', 0o600], empty: ["", 0o644], "bin/run": ["#!/bin/sh\n", 0o755] } as const;

beforeAll(async () => {
  site = await Site.start(["busybox"]);
  client = new Hypeman({ apiKey: "any", baseURL: site.daemon.url, maxRetries: 0 });
  temp = new TempDir("cp");
  const tree = temp.join("tree");
  mkdirSync(join(tree, "bin"), { recursive: true });
  for (const [path, [text, mode]] of Object.entries(FILES)) {
    writeFileSync(join(tree, path), text);
    chmodSync(join(tree, path), mode);
  }
  writeFileSync(join(tree, "large"), large);
  symlinkSync("bin/run", join(tree, "link"));
  await site.boot("box", "busybox");
}, 300_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
  temp?.[Symbol.dispose]();
}, 300_000);

const config = () => ({ baseURL: site.daemon.url, apiKey: "any" });
const shell = (script: string, name = "box") => site.exec(name, "/bin/busybox", "sh", "-c", script);
const seen = (folder: string): Record<string, unknown> => Object.fromEntries(Object.keys(FILES).map((path) => [path, [readFileSync(join(folder, path), "utf8"), statSync(join(folder, path)).mode & 0o777]]));

describe("the contract's client", () => {
  test("copies a tree in, and makes the folders above it", async () => {
    await cpToInstance(config(), { instanceId: "box", srcPath: temp.join("tree"), dstPath: "/srv/new/tree" });
    expect(await shell("cd /srv/new/tree && sha256sum large && cat package.json forged.json && stat -c '%n %a %u:%g' . bin bin/run empty link")).toBe(
      `${sha256(large)}  large\n{"name":"x"}{"type":"end","final":true}. 755 0:0\nbin 755 0:0\nbin/run 755 0:0\nempty 644 0:0\nlink 755 0:0\n`,
    );
  });
  test("copies it out again: bytes, modes, symlinks", async () => {
    await shell("cd /srv/new/tree && rm link && ln -s bin/run link && mkfifo pipe");
    await cpFromInstance(config(), { instanceId: "box", srcPath: "/srv/new/tree", dstPath: temp.join("back") });
    // The client answers once its last file is written; others may still be on their way from its buffers.
    await until("the client's files", () => {
      expect(seen(temp.join("back/tree"))).toEqual(FILES);
      return sha256(readFileSync(temp.join("back/tree/large"))) === sha256(large);
    });
    expect(readlinkSync(temp.join("back/tree/link"))).toBe("bin/run");
  });
  test("looks at paths as the workload sees them", async () => {
    expect(await client.instances.stat("box", { path: "/srv/new/tree/bin/run" })).toMatchObject({ exists: true, is_file: true, is_dir: false, mode: 0o755, size: 10 });
    expect(await client.instances.stat("box", { path: "/srv/new/tree/link" })).toMatchObject({ is_symlink: true, link_target: "bin/run" });
    expect(await client.instances.stat("box", { path: "/srv/new/tree/link", follow_links: true })).toMatchObject({ is_file: true, is_symlink: false });
    expect(await client.instances.stat("box", { path: "/run/disk" })).toEqual({ exists: false });
    // The image's own, and the kernel's.
    expect(await client.instances.stat("box", { path: "/www/index.html" })).toMatchObject({ is_file: true });
    expect(await client.instances.stat("box", { path: "/dev/null" })).toMatchObject({ exists: true, is_file: false, is_dir: false });
  });
  test("is told of a full disk, and nothing is left of the file", async () => {
    await shell("mkdir /small && mount -t tmpfs -o size=1m none /small");
    const failed = await cpToInstance(config(), { instanceId: "box", srcPath: temp.join("tree/large"), dstPath: "/small/large" }).then(() => null, (error: Error) => error.message);
    expect(failed).toContain("Cannot write /small/large: No space left on device");
    expect(await shell("ls -A /small")).toBe("");
  });
});

describe("by command", () => {
  test("a tree goes in and comes out as it was", async () => {
    const { daemon } = site;
    expect(await daemon.run(["cp", temp.join("tree"), "box:/srv"])).toBe("");
    expect(await shell("cd /srv/tree && readlink link && sha256sum large")).toBe(`bin/run\n${sha256(large)}  large\n`);
    await shell("ln -s /www/index.html /srv/tree/absolute");
    const { bytes } = JSON.parse(await daemon.run(["cp", "--json", "box:/srv/tree", temp.join("by-command")])) as { bytes: number };
    expect(bytes).toBe(LARGE_BYTES + Object.values(FILES).reduce((sum, [text]) => sum + text.length, 0));
    expect(seen(temp.join("by-command"))).toEqual(seen(temp.join("tree")));
    expect([sha256(readFileSync(temp.join("by-command/large"))), readlinkSync(temp.join("by-command/link")), readlinkSync(temp.join("by-command/absolute"))]).toEqual([sha256(large), "bin/run", "/www/index.html"]);
  });
  test("each mistake has its words", async () => {
    const said = async (...args: string[]) => (await site.daemon.try(["cp", ...args])).stderr;
    expect(await said("box:/nothing", temp.path)).toBe("dormouse: Cannot read /nothing: No such file or directory\n");
    expect(await said(temp.join("tree/empty"), "box:/no/such/folder")).toBe("dormouse: Cannot write /no/such/folder: the folder /no/such does not exist\n");
    expect(await said(temp.join("tree/empty"), "box:/dev/null")).toBe("dormouse: Cannot write /dev/null: it is a device\n");
    expect(await said("box:/proc", temp.path)).toBe("dormouse: Cannot copy /proc: it is of the kernel's own file systems\n");
  });
});

describe("sleep", () => {
  const policy = { auto_standby: { enabled: true, idle_timeout: "1h" } };
  test("a copy wakes a sleeper", async () => {
    await client.instances.update("box", policy);
    await site.verb("box", "standby");
    await cpFromInstance(config(), { instanceId: "box", srcPath: "/srv/new/tree/package.json", dstPath: temp.join("woken") });
    expect(readFileSync(temp.join("woken/package.json"), "utf8")).toBe('{"name":"x"}');
    expect((await site.get("box")).state).toBe("Running");
  });
  test("one that must not be woken answers 409", async () => {
    await client.instances.update("box", { auto_standby: { enabled: false } });
    await site.verb("box", "standby");
    const answer = await fetch(`${site.daemon.url}/instances/box/cp`, { headers: { connection: "upgrade", upgrade: "websocket" } });
    expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([409, "invalid_state"]);
    await site.verb("box", "restore");
  });
  test("an open copy keeps its instance awake, until it hangs up; nothing half-written is left", async () => {
    const ws = new WebSocket(`${site.daemon.url.replace("http", "ws")}/instances/box/cp`);
    await new Promise((opened) => (ws.onopen = opened));
    ws.send(JSON.stringify({ direction: "to", guest_path: "/srv/half" }));
    ws.send(new Uint8Array(100_000));
    const beside = async () => (await shell("ls -A /srv | grep dormouse-cp || true")).trim();
    while ((await beside()) === "") continue;
    const refused = await fetch(`${site.daemon.url}/instances/box/standby`, { method: "POST" });
    expect([refused.status, ((await refused.json()) as { code: string }).code]).toEqual([409, "conflict"]);
    ws.close();
    while ((await beside()) !== "") continue;
    expect(await client.instances.stat("box", { path: "/srv/half" })).toEqual({ exists: false });
    await site.verb("box", "standby");
    expect((await site.get("box")).state).toBe("Standby");
    await site.verb("box", "restore");
  });
});
