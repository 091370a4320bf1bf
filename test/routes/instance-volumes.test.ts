// Volumes of an instance over the wire: what is asked for, shown, attached and detached.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { type Api, failure, json, retried, startApi } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

const GIB = 2 ** 30;
const image = "docker.io/library/nginx:latest";
const mounts = [{ volume_id: "data", mount_path: "/data" }, { volume_id: "models", mount_path: "/models", readonly: true, overlay: true, overlay_size: "1GB" }];
const shown = [
  { volume_id: "data", mount_path: "/data", readonly: false, overlay: false },
  { volume_id: "models", mount_path: "/models", readonly: true, overlay: true, overlay_size: "1GB" },
];

test("an instance is asked for with volumes, in their order, and shows them", async () => {
  const created = await api.client.instances.create({ name: "web", image, volumes: mounts });
  expect(created.volumes as unknown).toEqual(shown);
  expect(api.instances.get("web")._unsafeUnwrap().volumes).toEqual([
    { volumeId: "data", mountPath: "/data", readonly: false, overlayBytes: null }, { volumeId: "models", mountPath: "/models", readonly: true, overlayBytes: GIB },
  ]);
  expect((await fetch(`${api.url}/instances`, json({ name: "none", image, volumes: null }))).status).toBe(201);
});

test("a repeat of a create is the same where it names the volume by its name, and another where it wants another", async () => {
  api.images.add(image);
  const { id } = (await api.volumes.create({ name: "data", sizeBytes: GIB, id: null, tags: {} }))._unsafeUnwrap();
  const first = await api.client.instances.create({ name: "web", image, volumes: [{ volume_id: id, mount_path: "/data" }] });
  const again = await api.client.instances.create({ name: "web", image, volumes: [{ volume_id: "data", mount_path: "/data" }] }, retried);
  expect(again.id).toBe(first.id);
  expect(await failure(api.client.instances.create({ name: "web", image, volumes: [{ volume_id: "data", mount_path: "/else" }] }, retried))).toMatchObject({ status: 409, code: "already_exists" });
});

test("attach and detach are the domain's, and a repeat that finds it done is answered with the instance", async () => {
  const { id } = (await api.volumes.create({ name: "data", sizeBytes: GIB, id: null, tags: {} }))._unsafeUnwrap();
  const web = await api.client.instances.create({ name: "web", image });
  expect(await failure(api.client.instances.volumes.attach("data", { id: "web", mount_path: "/data" }))).toMatchObject({ status: 409, code: "invalid_state" });
  api.instances.change(web.id, { state: "Stopped" });
  const attached = await api.client.instances.volumes.attach(id, { id: "web", mount_path: "/data", readonly: true });
  expect(attached.volumes as unknown).toEqual([{ volume_id: id, mount_path: "/data", readonly: true, overlay: false }]);
  api.instances.change(web.id, { state: "Running" });
  expect((await api.client.instances.volumes.attach("data", { id: "web", mount_path: "/data", readonly: true }, retried)).id).toBe(web.id);
  expect(await failure(api.client.instances.volumes.attach("data", { id: "web", mount_path: "/data" }, retried))).toMatchObject({ status: 409, code: "invalid_state" });
  expect(await failure(api.client.instances.volumes.detach("data", { id: "web" }, retried))).toMatchObject({ status: 409, code: "invalid_state" });
  api.instances.change(web.id, { state: "Stopped" });
  expect((await api.client.instances.volumes.detach(id, { id: "web" })).volumes).toEqual([]);
  api.instances.change(web.id, { state: "Running" });
  expect((await api.client.instances.volumes.detach("data", { id: "web" }, retried)).id).toBe(web.id);
  expect((await fetch(`${api.url}/instances/web/volumes/data`, json({ mount_path: "/d", colour: "red" }))).status).toBe(400);
});
