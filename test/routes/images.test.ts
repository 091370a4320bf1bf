import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { DormouseError } from "../../src/errors.ts";
import { errAsync } from "neverthrow";
import { type Api, json, startApi } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

const NGINX = "docker.io/library/nginx:latest";
const failure = async (call: Promise<unknown>) => {
  const thrown = await call.then(() => null, (error: unknown) => error);
  if (!(thrown instanceof Hypeman.APIError)) throw new Error("the call did not fail");
  return { status: thrown.status, ...(thrown.error as { code: string }) };
};

describe("images", () => {
  test("create passes the pull on and answers with its progress", async () => {
    const image = await api.client.images.create({ name: NGINX, platform: "linux/amd64", tags: { team: "web" }, credentials: { username: "u", password: "p", registry_token: "" } });
    expect(image).toMatchObject({ name: NGINX, status: "pulling", size_bytes: null, tags: { team: "web" }, progress: { done_bytes: 1, total_bytes: 2 } });
    expect(api.images.lastPull).toEqual({ name: NGINX, platform: "linux/amd64", tags: { team: "web" }, credentials: { username: "u", password: "p" } });
    await api.client.images.create({ name: NGINX, credentials: {} });
    expect(api.images.lastPull).toEqual({ name: NGINX });
  });
  test("credentials stand neither in an answer nor in the log", async () => {
    await fetch(`${api.url}/images`, json({ name: NGINX, credentials: { password: "hunter2" } }));
    expect(api.log.join("")).not.toContain("hunter2");
    const refused = await fetch(`${api.url}/images`, json({ name: NGINX, credentials: { password: ["hunter2"] } }));
    expect(refused.status).toBe(400);
    expect(await refused.text()).not.toContain("hunter2");
  });
  test("get takes names with slashes, and digests", async () => {
    api.images.add(NGINX);
    const digest = `sha256:${"b".repeat(64)}`;
    api.images.add(digest, { digest });
    expect(await api.client.images.get(NGINX)).toEqual({
      name: NGINX, digest: `sha256:${"a".repeat(64)}`, status: "ready", created_at: "2026-01-02T03:04:05.000Z", platform: "linux/amd64", size_bytes: 4096, queue_position: null, error: null,
      tags: {}, cmd: ["serve"], entrypoint: ["/entry"], env: { PATH: "/bin", EMPTY: "" }, working_dir: "/srv", progress: null,
    } as unknown as Hypeman.Image);
    expect((await api.client.images.get(digest)).digest).toBe(digest);
    expect(await failure(api.client.images.get("nope"))).toMatchObject({ status: 404, code: "image_not_found" });
  });
  test("list filters by tags", async () => {
    api.images.add("a", { tags: { team: "web" } });
    api.images.add("b");
    expect((await api.client.images.list()).map(({ name }) => name)).toEqual(["a", "b"]);
    expect((await api.client.images.list({ tags: { team: "web" } })).map(({ name }) => name)).toEqual(["a"]);
  });
  test("delete, and its repeat", async () => {
    api.images.add(NGINX);
    await api.client.images.delete(NGINX);
    expect(await failure(api.client.images.delete(NGINX))).toMatchObject({ status: 404, code: "image_not_found" });
    await api.client.images.delete(NGINX, { headers: { "X-Stainless-Retry-Count": "1" } });
    api.images.add(NGINX);
    api.images.remove = () => errAsync(new DormouseError("image.in_use", "Cannot delete it: an instance uses it."));
    expect(await failure(api.client.images.delete(NGINX, { headers: { "X-Stainless-Retry-Count": "1" } }))).toMatchObject({ status: 409, code: "in_use" });
  });
  test("tag and load", async () => {
    api.images.add(NGINX);
    expect(await api.client.images.tag(NGINX, { target: "nginx:stable" })).toMatchObject({ name: "nginx:stable", status: "ready" });
    const loaded = await fetch(`${api.url}/images/load`, json({ path: "/var/tmp/x.tar", name: "x:1" }));
    expect([loaded.status, ((await loaded.json()) as { status: string }).status]).toEqual([202, "converting"]);
    expect((await fetch(`${api.url}/images/load`, json({ path: "x.tar" }))).status).toBe(400);
  });
});

describe("server", () => {
  test("capabilities list what works, and no more", async () => {
    expect((await api.client.capabilities.get()) as unknown).toEqual({
      server: { version: "0.1.0-test", api_version: "0.28.0" }, host: { os: "linux", arch: "amd64" }, default_runtime: { name: "dormouse", available: true },
      runtimes: [{ name: "dormouse", available: true, features: ["fork", "snapshots", "standby", "vsock"] }], network: { model: "nat", guest_to_guest: false, gateway: "172.30.0.1", subnet: "172.30.0.0/16" },
      images: { default_platform: "linux/amd64", platforms: ["linux/amd64"] }, features: ["exec", "images", "ingress", "instances", "logs", "volumes"],
    });
  });
  test("health and usage", async () => {
    expect(await api.client.health.check()).toEqual({ status: "ok" });
    expect(await (await fetch(`${api.url}/usage`)).json()).toEqual({ images: { count: 0, blob_bytes: 10, rootfs_bytes: 20 }, instances: { count: 0, disk_bytes: 30 }, snapshots: { count: 0, disk_bytes: 31 }, shared_disk_bytes: 32, volumes: { count: 0, disk_bytes: 34 }, saved_memory_bytes: 33, free_bytes: 40 });
  });
});
