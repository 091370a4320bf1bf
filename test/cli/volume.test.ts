// `dormouse volume` as a process against the real HTTP layer and the real volume domain.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { dir, file, tar } from "../host/images/tar-builder.ts";
import { TempDir } from "../support/paths.ts";
import { type Api, startApi } from "../routes/harness.ts";
import { runCli } from "./support.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

const cli = (...args: string[]) => runCli(["volume", ...args], { env: { DORMOUSE_HOST: api.url } });

test("create, list, inspect, rm", async () => {
  expect(await cli("create", "data", "--size", "20G", "-t", "team=web")).toEqual({ status: 0, out: "data\n", err: "" });
  expect(await cli("create", "logs", "--id", "my-logs")).toMatchObject({ status: 0 });
  const [data, logs] = await api.client.volumes.list();
  expect([data, logs]).toMatchObject([{ name: "data", size_gb: 20, tags: { team: "web" } }, { id: "my-logs", size_gb: 10 }]);
  api.volumes.attach({ kind: "instance", id: "one" }, [{ volumeId: "data", mountPath: "/data", readonly: true, overlayBytes: null }])._unsafeUnwrap();
  const { out } = await cli("ls");
  expect(out).toMatch(/^NAME +ID +SIZE +ATTACHED TO +CREATED\n/);
  expect(out).toMatch(new RegExp(`data +${data!.id} +20GB +one:/data:ro +`));
  const { id: web } = await api.client.instances.create({ name: "web", image: "nginx" });
  api.volumes.attach({ kind: "instance", id: web }, [{ volumeId: "data", mountPath: "/srv", readonly: true, overlayBytes: null }])._unsafeUnwrap();
  expect((await cli("ls")).out).toContain("one:/data:ro web:/srv:ro");
  expect((await cli("list", "-t", "team=web", "-q")).out).toBe("data\n");
  expect(JSON.parse((await cli("ls", "--json")).out)).toEqual(JSON.parse(JSON.stringify(await api.client.volumes.list())));
  expect(JSON.parse((await cli("inspect", "data")).out)).toMatchObject([{ name: "data", attachments: [{ instance_id: "one" }, { instance_id: web }] }]);
  expect(await cli("rm", "logs", "nobody", "data")).toMatchObject({ status: 1, out: "logs\n", err: expect.stringMatching(/nobody.*\n.*instance one, instance .* have it/s) });
  expect((await api.client.volumes.list()).map(({ name }) => name)).toEqual(["data"]);
});

test("create --from a file, and from standard input", async () => {
  using at = new TempDir("from");
  const archive = gzipSync(tar([dir("d"), file("d/a", "hello")]));
  await Bun.write(at.join("a.tar.gz"), archive);
  expect(await cli("create", "data", "-s", "1g", "--from", at.join("a.tar.gz"), "-t", "team=web")).toEqual({ status: 0, out: "data\n", err: "" });
  expect(await runCli(["volume", "create", "piped", "-s", "1g", "--from", "-"], { env: { DORMOUSE_HOST: api.url }, input: archive })).toEqual({ status: 0, out: "piped\n", err: "" });
  for (const [name, bytes] of [["plain", tar([file("a", "hello")])], ["zstd", zstdCompressSync(tar([file("a", "hello")]))]] as const)
    expect(await runCli(["volume", "create", name, "-s", "1g", "--from", "-"], { env: { DORMOUSE_HOST: api.url }, input: bytes })).toEqual({ status: 0, out: `${name}\n`, err: "" });
  expect(await api.client.volumes.list()).toMatchObject([{ name: "data", size_gb: 1, tags: { team: "web" } }, { name: "piped" }, { name: "plain" }, { name: "zstd" }]);
  const damaged = at.join("damaged");
  await Bun.write(damaged, zstdCompressSync(tar([file("a", "hello")])).fill(1, 4, 12));
  for (const [path, said] of [[at.join("none"), "no such file or directory"], [damaged, `dormouse: Cannot read ${damaged}: its zstd data is damaged`], [at.path, "it is a folder"], [import.meta.path, "not a tar archive"]] as const)
    expect(await cli("create", "bad", "--from", path)).toMatchObject({ status: 1, out: "", err: expect.stringContaining(said) });
  expect(await api.client.volumes.list()).toHaveLength(4);
});

test("attach and detach, in order, of an instance that is stopped", async () => {
  const { id } = await api.client.instances.create({ name: "web", image: "nginx" });
  api.instances.change(id, { state: "Stopped" });
  expect(await cli("attach", "web", "data:/data", "models:/models:ro", "seed:/seed:overlay=2g")).toEqual({ status: 0, out: "data\nmodels\nseed\n", err: "" });
  expect(api.instances.get("web")._unsafeUnwrap().volumes).toEqual([
    { volumeId: "data", mountPath: "/data", readonly: false, overlayBytes: null }, { volumeId: "models", mountPath: "/models", readonly: true, overlayBytes: null },
    { volumeId: "seed", mountPath: "/seed", readonly: true, overlayBytes: 2 * 2 ** 30 },
  ]);
  expect(JSON.parse((await cli("detach", "web", "data", "models", "--json")).out).volumes).toMatchObject([{ volume_id: "seed", overlay_size: "2GB" }]);
  api.instances.change(id, { state: "Running" });
  expect(await cli("detach", "web", "seed")).toMatchObject({ status: 1, out: "", err: expect.stringContaining("it is Running") });
});

test.each<[string, string[], string]>([
  ["a folder of the host", ["attach", "web", "/srv:/data"], "Folders of this host can't be mounted"],
  ["a volume without a path", ["attach", "web", "data"], "NAME:/PATH"],
  ["an unknown option", ["attach", "web", "data:/data:z"], 'no option "z"'],
  ["an overlay without a size", ["attach", "web", "data:/data:overlay=much"], "size such as"],
  ["a size that is none", ["create", "x", "--size", "10"], "whole gigabytes"],
  ["a size in megabytes", ["create", "x", "--size", "512m"], "whole gigabytes"],
  ["a tag without a value", ["create", "x", "-t", "team"], "KEY=VALUE"],
])("%s is wrong usage", async (_, args, said) => {
  const { status, err } = await cli(...args);
  expect([status, err]).toEqual([2, expect.stringContaining(said)]);
});
