import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type Hypeman from "@onkernel/hypeman";
import { createReadStream, readdirSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:net";
import { gzipSync } from "node:zlib";
import { TempDir } from "../support/paths.ts";
import { dir, file, tar } from "../host/images/tar-builder.ts";
import { type Api, failure, json, retried, startApi, until } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

const attach = (id: string, volumeId: string, readonly = false) => api.volumes.attach({ kind: "instance", id }, [{ volumeId, mountPath: "/data", readonly, overlayBytes: null }])._unsafeUnwrap();

describe("volumes", () => {
  test("create, get by name, id and prefix, list by tags, delete", async () => {
    const made = await api.client.volumes.create({ name: "data", size_gb: 2, tags: { team: "web" } });
    expect(made).toEqual({ id: made.id, name: "data", size_gb: 2, created_at: made.created_at, attachments: [], tags: { team: "web" } });
    expect(new Date(made.created_at).toISOString()).toBe(made.created_at);
    for (const ref of [made.id, "data", made.id.slice(0, 10)]) expect(await api.client.volumes.get(ref)).toEqual(made);
    const other = await api.client.volumes.create({ name: "logs", size_gb: 1, id: "my-logs" });
    expect(other.id).toBe("my-logs");
    expect(await api.client.volumes.list()).toEqual([made, other]);
    expect(await api.client.volumes.list({ tags: { team: "web" } })).toEqual([made]);
    expect(await api.client.volumes.list({ tags: { team: "other" } })).toEqual([]);
    await api.client.volumes.delete("data");
    expect(await api.client.volumes.list()).toEqual([other]);
    expect(await failure(api.client.volumes.get("data"))).toMatchObject({ status: 404, code: "not_found" });
    expect(await failure(api.client.volumes.delete("data"))).toMatchObject({ status: 404, code: "not_found" });
    await api.client.volumes.delete("data", retried);
  });

  test("attachments are shown, and keep a volume from being deleted", async () => {
    await api.client.volumes.create({ name: "data", size_gb: 1 });
    attach("one", "data", true);
    attach("two", "data", true);
    const shown = (instance_id: string) => ({ instance_id, mount_path: "/data", readonly: true });
    expect((await api.client.volumes.get("data")).attachments).toEqual([shown("one"), shown("two")]);
    expect(await failure(api.client.volumes.delete("data"))).toMatchObject({ status: 409, code: "in_use", message: expect.stringContaining("instance one, instance two have it") });
  });

  test("a taken name or id is 409; a repeat of the very same request is answered", async () => {
    const request = { name: "data", size_gb: 1, id: "one", tags: { a: "b" } };
    const made = await api.client.volumes.create(request);
    for (const change of [{}, { id: "two" }, { name: "other" }, { name: "one", id: "three" }]) expect(await failure(api.client.volumes.create({ ...request, ...change }))).toMatchObject({ status: 409, code: "already_exists" });
    expect(await api.client.volumes.create(request, retried)).toEqual(made);
    expect(await failure(api.client.volumes.create({ ...request, size_gb: 2 }, retried))).toMatchObject({ status: 409, code: "already_exists" });
  });

  test.each<[string, object, string]>([
    ["a bad name", { name: "Data" }, "invalid_name"], ["no name", { name: undefined }, "bad_request"], ["no size", { size_gb: undefined }, "bad_request"], ["a size of 0", { size_gb: 0 }, "invalid_size"],
    ["a broken size", { size_gb: 1.5 }, "bad_request"], ["a size as text", { size_gb: "1" }, "bad_request"], ["a size beyond files", { size_gb: 16_384 }, "invalid_size"], ["a size beyond numbers", { size_gb: 1e300 }, "invalid_size"],
    ["an id that is a path", { id: "../x" }, "bad_request"], ["an empty id", { id: "" }, "bad_request"], ["tags that are no texts", { tags: { a: 1 } }, "bad_request"], ["an unknown field", { colour: "red" }, "bad_request"],
  ])("%s is refused", async (_, change, code) => {
    expect(await failure(api.client.volumes.create({ name: "data", size_gb: 1, ...change } as Hypeman.VolumeCreateParams))).toMatchObject({ status: 400, code });
    expect(await api.client.volumes.list()).toEqual([]);
  });

  test("unknown queries are refused", async () => {
    for (const path of ["/volumes?colour=red", "/volumes/x?force=1"]) expect((await fetch(api.url + path)).status).toBe(400);
    expect((await fetch(`${api.url}/volumes?x=1`, json({ name: "data", size_gb: 1 }))).status).toBe(400);
  });
});

describe("volumes from archives", () => {
  const archive = gzipSync(tar([dir("d"), file("d/a", "hello")]));
  const params = { name: "data", size_gb: 1 };
  const left = () => readdirSync(join(api.dir, "volumes")).filter((name) => !name.startsWith("."));

  test("the contract's client sends bytes, files as they are read, and streams", async () => {
    using at = new TempDir("archive");
    await Bun.write(at.join("a.tar.gz"), archive);
    const made = await api.client.volumes.createFromArchive(archive, { ...params, id: "one", tags: { team: "web" } });
    expect(made).toEqual({ id: "one", name: "data", size_gb: 1, created_at: made.created_at, attachments: [], tags: { team: "web" } });
    const stream = createReadStream(at.join("a.tar.gz")) as unknown as string; // as the client's own example has it; its types know no streams
    await api.client.volumes.createFromArchive(stream, { name: "streamed", size_gb: 1 });
    expect((await api.client.volumes.list()).map(({ name }) => name)).toEqual(["data", "streamed"]);
  });

  test.each<[string, Partial<Hypeman.VolumeCreateFromArchiveParams>, Uint8Array, number, string]>([
    ["no archive", {}, Buffer.from("hello"), 400, "invalid_archive"], ["an entry outside", {}, gzipSync(tar([file("../a")])), 400, "invalid_archive"], ["a file that is cut off", {}, gzipSync(tar([file("a", "", { size: 2 ** 31 })])), 400, "invalid_archive"],
    ["a taken name", { name: "taken" }, archive, 409, "already_exists"], ["a bad name", { name: "Data" }, archive, 400, "invalid_name"], ["no name", { name: "" }, archive, 400, "bad_request"],
    ["a size of 0", { size_gb: 0 }, archive, 400, "invalid_size"], ["a broken size", { size_gb: 1.5 }, archive, 400, "bad_request"], ["a bad id", { id: "../x" }, archive, 400, "bad_request"],
  ])("%s is refused", async (_, change, body, status, code) => {
    await api.client.volumes.create({ name: "taken", size_gb: 1, id: "taken" });
    expect(await failure(api.client.volumes.createFromArchive(body, { ...params, ...change }))).toMatchObject({ status, code });
    expect(left()).toEqual(["taken"]);
  });

  test("a body that says it is something else, or that is not there, is refused", async () => {
    for (const headers of [{ "content-type": "text/plain" }, {}] as Record<string, string>[]) {
      expect((await fetch(`${api.url}/volumes/from-archive?name=data&size_gb=1`, { method: "POST", headers, body: archive })).status).toBe(400);
    }
    expect((await fetch(`${api.url}/volumes/from-archive?name=data&size_gb=1&colour=red`, { method: "POST", headers: { "content-type": "application/gzip" }, body: archive })).status).toBe(400);
    expect((await fetch(`${api.url}/volumes/from-archive?name=data&size_gb=1`, { method: "POST", headers: { "content-type": "application/gzip" } })).status).toBe(400);
  });

  test("a client that hangs up leaves nothing, and the name is free", async () => {
    const socket = connect(Number(new URL(api.url).port), "127.0.0.1");
    socket.write(`POST /volumes/from-archive?name=data&size_gb=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/gzip\r\nContent-Length: 1000000\r\n\r\n`);
    socket.write(archive.subarray(0, 50));
    await until(() => left().length === 1);
    socket.destroy();
    await until(() => left().length === 0);
    await api.client.volumes.createFromArchive(archive, params);
  });

  test("a sender that goes on beyond what JSON may take is cut off", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const socket = connect(Number(new URL(api.url).port), "127.0.0.1");
    socket.on("close", () => resolve()).on("error", () => {}); // a reset is as good
    socket.write("POST /volumes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    const more = () => { while (!socket.destroyed && socket.write(`10000\r\n${" ".repeat(0x10000)}\r\n`)); };
    socket.on("drain", more).resume();
    more();
    await promise;
  });
});
