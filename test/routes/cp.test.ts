import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cpFromInstance, cpToInstance } from "@onkernel/hypeman/lib/cp";
import { DormouseError } from "../../src/errors.ts";
import type { EntryKind, PathEntry } from "../../src/host/instances/copy-service.ts";
import { CP_V1, unmistakable } from "../../src/routes/cp-protocol.ts";
import { type Api, failure, startApi, until } from "./harness.ts";
import type { FakeCopy } from "./memory.ts";

let api: Api;
let folder: string;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "cp-"));
  api = startApi();
  const { id } = await api.client.instances.create({ name: "box", image: "busybox" });
  api.instances.change(id, { state: "Running" });
});
afterEach(async () => {
  await api.stop();
  rmSync(folder, { recursive: true });
});

const bytes = (text: string) => new TextEncoder().encode(text);
const entry = (path: string, kind: EntryKind, change: Partial<PathEntry> = {}): PathEntry =>
  ({ path, kind, mode: kind === "directory" ? 0o755 : 0o644, uid: 0, gid: 0, sizeBytes: 0, mtime: 1_700_000_000, target: null, ...change });

/** The guest's side of the next copy, once it is asked for. */
async function nextCopy(): Promise<FakeCopy> {
  const before = api.instances.copies.length;
  await until(() => api.instances.copies.length > before);
  return api.instances.copies.at(-1)!;
}
const config = () => ({ baseURL: api.url, apiKey: "any" });

/** A client that keeps all that it is sent. */
function open(protocol?: string) {
  const ws = new WebSocket(`${api.url.replace("http", "ws")}/instances/box/cp`, protocol === undefined ? [] : [protocol]);
  ws.binaryType = "arraybuffer";
  const got: unknown[] = [];
  let code: number | null = null;
  ws.onmessage = ({ data }) => void got.push(typeof data === "string" ? JSON.parse(data) : new TextDecoder().decode(data as ArrayBuffer));
  ws.onclose = (event) => void (code = event.code);
  return { ws, got, opened: new Promise<void>((done) => (ws.onopen = () => done())), code: () => code };
}
async function begin(start: unknown, protocol?: string) {
  const client = open(protocol), copying = nextCopy();
  await client.opened;
  client.ws.send(JSON.stringify(start));
  return { client, copy: await copying };
}

describe("the contract's client", () => {
  test("copies a file to the guest, with its mode", async () => {
    writeFileSync(join(folder, "package.json"), '{"name":"x"}', { mode: 0o640 });
    const done = cpToInstance(config(), { instanceId: "box", srcPath: join(folder, "package.json"), dstPath: "/app/package.json" });
    const copy = await nextCopy();
    await until(() => copy.calls.includes("finish"));
    expect(copy.request).toEqual({ direction: "in", path: "/app/package.json", followLinks: "none", makeParents: true });
    expect([copy.entries, copy.data, copy.calls]).toEqual([[{ path: "", kind: "file", mode: 0o640, uid: null, gid: null, mtime: null, target: null }], ['{"name":"x"}'], ["end", "finish"]]);
    copy.listener.onEnd({ error: null, bytes: 12 });
    await done;
  });
  test("is told why a copy to the guest went wrong, also while it still sends", async () => {
    writeFileSync(join(folder, "large"), new Uint8Array(40_000_000));
    const done = cpToInstance(config(), { instanceId: "box", srcPath: join(folder, "large"), dstPath: "/full" }).then(() => null, (error: Error) => error.message);
    const copy = await nextCopy();
    await until(() => copy.data.length > 0);
    copy.listener.onEnd({ error: "Cannot write /full: No space left on device", bytes: 0 });
    expect(await done).toBe("Copy failed: Cannot write /full: No space left on device");
  });
  test("copies a tree from the guest: JSON as it is, empty files, modes, times, symlinks", async () => {
    const done = cpFromInstance(config(), { instanceId: "box", srcPath: "/srv/app/", dstPath: folder });
    const { request, listener } = await nextCopy();
    expect(request).toEqual({ direction: "out", path: "/srv/app/", followLinks: "none", makeParents: true });
    const files: Record<string, string> = { "package.json": '{"type":"end","final":true}', "a.txt": "plain", "list.json": "[1,[2]]", empty: "" };
    listener.onEntry(entry("", "directory"));
    for (const [path, text] of Object.entries(files)) {
      listener.onEntry(entry(path, "file", { mode: 0o755 }));
      if (text !== "") listener.onData(bytes(text));
      listener.onFileEnd();
    }
    listener.onSkipped("pipe", "it is a FIFO");
    listener.onEntry(entry("link", "symlink", { target: "a.txt" }));
    listener.onEntry(entry("last", "file"));
    listener.onData(bytes("[]"));
    listener.onFileEnd();
    listener.onEnd({ error: null, bytes: 1 });
    await done;
    // The client answers once its last file is written; others may still be on their way from its buffers.
    await until(() => Object.entries({ ...files, last: "[]" }).every(([path, text]) => existsSync(join(folder, "app", path)) && readFileSync(join(folder, "app", path), "utf8") === text));
    expect([readlinkSync(join(folder, "app/link")), statSync(join(folder, "app/a.txt")).mode & 0o777, statSync(join(folder, "app/last")).mtimeMs]).toEqual(["a.txt", 0o755, 1_700_000_000_000]);
  });
  test("refuses an absolute symlink, and is sent it as it is", async () => {
    const done = cpFromInstance(config(), { instanceId: "box", srcPath: "/l", dstPath: folder }).then(() => null, (error: Error) => error.message);
    const { listener, calls } = await nextCopy();
    listener.onEntry(entry("", "symlink", { target: "/etc/passwd" }));
    expect(await done).toContain("absolute path): /etc/passwd");
    await until(() => calls.includes("close"));
    expect(lstatSync(join(folder, "l"), { throwIfNoEntry: false })).toBeUndefined();
  });
  test("is told what went wrong on the way", async () => {
    for (const [say, message] of [[(copy: FakeCopy) => copy.listener.onEnd({ error: "Cannot read /x: it has gone", bytes: 0 }), "Copy error at /x: Cannot read /x: it has gone"], [(copy: FakeCopy) => copy.listener.onLost("the guest ended"), "Copy error at /x: the guest ended"]] as const) {
      const done = cpFromInstance(config(), { instanceId: "box", srcPath: "/x", dstPath: folder }).then(() => null, (error: Error) => error.message);
      say(await nextCopy());
      expect(await done).toBe(message);
    }
  });
  test("makes folders, and leaves out symlinks to folders", async () => {
    mkdirSync(join(folder, "d"));
    symlinkSync("d", join(folder, "to-d"));
    await cpToInstance(config(), { instanceId: "box", srcPath: join(folder, "to-d"), dstPath: "/d" });
    const done = cpToInstance(config(), { instanceId: "box", srcPath: join(folder, "d"), dstPath: "/d" });
    const copy = await nextCopy();
    await until(() => copy.calls.includes("finish"));
    expect([copy.entries.map(({ kind, mode }) => [kind, mode]), copy.calls]).toEqual([[["directory", 0o755]], ["finish"]]);
    copy.listener.onEnd({ error: null, bytes: 0 });
    await done;
  });
});

describe("before the upgrade", () => {
  test("409 unless Running, 404, and plain HTTP is told what to do", async () => {
    const { id } = await api.client.instances.get("box");
    expect((await fetch(`${api.url}/instances/box/cp`)).status).toBe(400);
    expect((await fetch(`${api.url}/instances/none/cp`)).status).toBe(404);
    for (const state of ["Stopped", "Standby"] as const) {
      api.instances.change(id, { state });
      const response = await fetch(`${api.url}/instances/box/cp`, { headers: { connection: "upgrade", upgrade: "websocket" } });
      expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([409, "invalid_state"]);
    }
  });
  test("one that sleeps is woken where its policy says so", async () => {
    const { id } = await api.client.instances.get("box");
    await api.client.instances.update("box", { auto_standby: { enabled: true, idle_timeout: "5m" } });
    api.instances.change(id, { state: "Standby" });
    const { client } = await begin({ direction: "from", guest_path: "/x" });
    expect(api.instances.records.get(id)?.state).toBe("Running");
    client.ws.close();
  });
  test("a foreign origin is refused", async () => {
    const ws = new WebSocket(`${api.url.replace("http", "ws")}/instances/box/cp`, { headers: { origin: "https://evil.example" } } as unknown as string[]);
    expect(await new Promise((done) => { ws.onopen = () => done("open"); ws.onerror = () => done("refused"); })).toBe("refused");
  });
});

describe("on the wire", () => {
  test.each([["no JSON", "x"], ["no path", '{"direction":"to"}'], ["another direction", '{"direction":"up","guest_path":"/x"}'], ["an unknown field", '{"direction":"to","guest_path":"/x","force":true}'], ["a NUL", '{"direction":"to","guest_path":"/x\\u0000"}']])("a first frame with %s is refused", async (_, text) => {
    const client = open();
    await client.opened;
    client.ws.send(text);
    await until(() => client.got.length > 0);
    expect(client.got).toEqual([{ type: "error", message: "Cannot copy: the first frame is not a valid request", path: "" }]);
    expect(api.instances.copies).toEqual([]);
    client.ws.close();
  });
  test("a copy that can't be begun says why", async () => {
    api.instances.failNext = new DormouseError("instance.agent_unreachable", "Cannot reach the agent.");
    const client = open();
    await client.opened;
    client.ws.send('{"direction":"to","guest_path":"/x"}');
    await until(() => client.got.length > 0);
    expect(client.got).toEqual([{ type: "error", message: "Cannot reach the agent.", path: "/x" }]);
    client.ws.close();
  });
  test("a hang-up closes the guest's side, and a frame out of turn does", async () => {
    const { client, copy } = await begin({ direction: "to", guest_path: "/x" });
    client.ws.close();
    await until(() => copy.calls.includes("close"));
    for (const [start, frame] of [[{ direction: "to", guest_path: "/x" }, "{}"], [{ direction: "to", guest_path: "/x", is_dir: true }, bytes("x")], [{ direction: "from", guest_path: "/x" }, bytes("x")], [{ direction: "to", guest_path: "/x" }, '{"type":"header","path":"a"}']] as const) {
      const wrong = await begin(start);
      wrong.client.ws.send(frame);
      await until(() => wrong.copy.calls.includes("close") && wrong.client.got.length > 0);
      expect(wrong.client.got).toMatchObject([{ type: "error" }]);
      wrong.client.ws.close();
    }
  });
  test("the last end of a copy out is the final one", async () => {
    const { client, copy: { listener } } = await begin({ direction: "from", guest_path: "/" });
    listener.onEntry(entry("", "directory"));
    listener.onEntry(entry("f", "file"));
    listener.onFileEnd();
    listener.onEnd({ error: null, bytes: 0 });
    await until(() => client.got.length === 4);
    expect(client.got).toMatchObject([{ type: "header", path: ".", is_dir: true }, { type: "end", final: false }, { type: "header", path: "f", is_dir: false }, { type: "end", final: true }]);
    client.ws.close();
  });
  test(`${CP_V1} carries trees in, and out by the paths of the source`, async () => {
    const into = await begin({ direction: "to", guest_path: "/x" }, CP_V1);
    expect(into.client.ws.protocol).toBe(CP_V1);
    for (const frame of [{ type: "header", path: "", is_dir: true, mode: 0o700 }, { type: "header", path: "f", mtime: 5, mode: 0o100600, uid: 3, gid: 4 }]) into.client.ws.send(JSON.stringify(frame));
    into.client.ws.send(bytes('{"type":"end"}'));
    for (const frame of [{ type: "end" }, { type: "header", path: "l", is_symlink: true, link_target: "/f" }, { type: "end", final: true }]) into.client.ws.send(JSON.stringify(frame));
    await until(() => into.copy.calls.includes("finish"));
    expect(into.copy.request).toMatchObject({ makeParents: false });
    expect(into.copy.entries.map(({ path, kind, mode, uid, mtime, target }) => [path, kind, mode, uid, mtime, target])).toEqual([["", "directory", 0o700, null, null, null], ["f", "file", 0o600, 3, 5, null], ["l", "symlink", null, null, null, "/f"]]);
    expect([into.copy.data, into.copy.calls]).toEqual([['{"type":"end"}'], ["end", "finish"]]);
    into.copy.listener.onEnd({ error: null, bytes: 14 });
    await until(() => into.client.got.length === 1);
    expect(into.client.got).toEqual([{ type: "result", success: true, bytes_written: 14 }]);
    into.client.ws.close();
    const from = await begin({ direction: "from", guest_path: "/x", follow_source: true }, CP_V1);
    expect(from.copy.request.followLinks).toBe("source");
    from.copy.listener.onEntry(entry("", "file"));
    from.copy.listener.onData(bytes("{}"));
    from.copy.listener.onFileEnd();
    from.copy.listener.onEnd({ error: null, bytes: 2 });
    await until(() => from.client.got.length === 4);
    expect(from.client.got).toMatchObject([{ type: "header", path: "" }, "{}", { type: "end" }, { type: "end", final: true }]);
    from.client.ws.close();
  });
  test("stopping the daemon closes copies", async () => {
    const { client, copy } = await begin({ direction: "from", guest_path: "/x" });
    await api.stop();
    await until(() => client.code() !== null);
    expect(client.code()).toBe(1001);
    expect(copy.calls).toContain("close");
  });
});

describe("back-pressure", () => {
  test("a slow guest stops the reading of the socket, until it drains", async () => {
    const { client, copy } = await begin({ direction: "to", guest_path: "/x" });
    copy.accepting = false;
    const chunk = new Uint8Array(256 * 1024), sent = 200;
    for (let i = 0; i < sent; i += 1) client.ws.send(chunk);
    let before = -1;
    await until(() => copy.data.length > 0 && before === (before = copy.data.length));
    expect(copy.data.length).toBeLessThan(sent / 2);
    copy.accepting = true;
    copy.listener.onDrain();
    await until(() => copy.data.length === sent);
    client.ws.close();
  });
  test("a slow client pauses the guest, until it takes again", async () => {
    const { client, copy } = await begin({ direction: "from", guest_path: "/x" });
    copy.listener.onEntry(entry("", "file"));
    const block = new Uint8Array(1024 * 1024);
    // The client shares this thread: what is sent without a turn of the loop can't have been taken.
    for (let i = 0; i < 64 && !copy.calls.includes("pause"); i += 1) copy.listener.onData(block);
    expect(copy.calls).toEqual(["pause"]);
    await until(() => copy.calls.includes("resume"));
    client.ws.close();
  });
});

test("unmistakable() sends every byte, and nothing that the contract's client takes for a control frame", () => {
  const taken = (frame: Uint8Array): boolean => {
    if (frame[0] !== 0x7b && frame[0] !== 0x5b) return false;
    try {
      return Boolean(JSON.parse(Buffer.from(frame).toString()));
    } catch {
      return false;
    }
  };
  const end = '{"type":"end","final":true}';
  for (const text of ["", "x", end, `[${end}`, `[${end}]`, `{${end}`, `${end} `, ` ${end}`, "[[[]]]", "[]", "{}", "{", "[[1],", `{"a":"\ufffd"}`, "[".repeat(30_000) + "]".repeat(30_000)]) {
    const frames = unmistakable(bytes(text));
    expect(Buffer.concat(frames).toString()).toBe(text);
    expect(frames.filter(taken)).toEqual([]);
  }
});

describe("stat", () => {
  test("tells what is there", async () => {
    api.instances.paths.set("/etc", { entry: entry("", "directory", { mode: 0o1755 }), error: null });
    api.instances.paths.set("/l", { entry: entry("", "symlink", { target: "/etc", sizeBytes: 4 }), error: null });
    api.instances.paths.set("/bad", { entry: null, error: "Cannot look at /bad: Input/output error" });
    expect(await api.client.instances.stat("box", { path: "/etc" })).toEqual({ exists: true, is_dir: true, is_file: false, is_symlink: false, mode: 0o1755, size: 0 });
    expect(await api.client.instances.stat("box", { path: "/l", follow_links: false })).toMatchObject({ is_symlink: true, link_target: "/etc", size: 4 });
    expect(await api.client.instances.stat("box", { path: "/none", follow_links: true })).toEqual({ exists: false });
    expect(await api.client.instances.stat("box", { path: "/bad" })).toEqual({ exists: false, error: "Cannot look at /bad: Input/output error" });
    expect(api.instances.calls.filter((call) => call.startsWith("stat"))).toEqual(["stat /etc false", "stat /l false", "stat /none true", "stat /bad false"]);
  });
  test("needs a path, and an instance that runs", async () => {
    expect(await failure(api.client.instances.stat("box", { path: "" }))).toMatchObject({ status: 400, details: { field: "path" } });
    const { id } = await api.client.instances.get("box");
    api.instances.change(id, { state: "Stopped" });
    expect(await failure(api.client.instances.stat("box", { path: "/" }))).toMatchObject({ status: 409, code: "invalid_state" });
  });
});
