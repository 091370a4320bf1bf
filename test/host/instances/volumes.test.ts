// Instances and their volumes over stand-in monitors: who has which from create to delete, what a machine is given, what is refused
// while one writes, and files that are not there.
import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { VolumeMount } from "../../../src/host/volumes/service.ts";
import { configPairs } from "../../../src/host/instances/guest-config.ts";
import { bootParams } from "../../../src/host/instances/boot.ts";
import { until } from "../../support/until.ts";
import { imageConfig, monitorsIn, never, open, removeRoots, request, type Fixture } from "./fixture.ts";
import { asleep, codeOf, entries, picture, remove, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);

const MIB = 2 ** 20;
const mount = (volumeId: string, change: Partial<VolumeMount> = {}): VolumeMount => ({ volumeId, mountPath: `/${volumeId}`, readonly: false, overlayBytes: null, ...change });
const shared = (volumeId: string) => mount(volumeId, { readonly: true });
const layered = (volumeId: string) => mount(volumeId, { readonly: true, overlayBytes: 64 * MIB });
const make = async (fixture: Fixture, ...names: string[]): Promise<void> => {
  for (const name of names) (await fixture.volumes.create({ name, sizeBytes: 64 * MIB, id: `id-${name}`, tags: {} }))._unsafeUnwrap();
};
const logOf = (fixture: Fixture, name: string) => Array.fromAsync(fixture.instances.logs(name, { source: "dormouse", tail: 100, follow: false, signal: never() })._unsafeUnwrap());
const holders = ({ volumes }: Fixture, name: string) => volumes.get(name)._unsafeUnwrap().attachments;
const stop = async (fixture: Fixture, name: string) => (await fixture.instances.stop(name, { graceMs: 1000 }))._unsafeUnwrap();
const fork = (fixture: Fixture, source: string, name: string) => fixture.instances.fork(source, { name, fromRunning: true, targetState: null });
const snapshot = (fixture: Fixture, kind: "Standby" | "Stopped", name: string) => fixture.instances.createSnapshot("one", { kind, name, tags: {} });
const overlays = (fixture: Fixture, id: string) => entries(fixture, `instances/${id}`).filter((name) => name.startsWith("overlay"));

const O_RDONLY = 0, O_RDWR = 2, O_ACCMODE = 3;

/** How a monitor has files of volumes open, by path. */
function opened(pid: number, root: string): Record<string, number> {
  const fds = readdirSync(`/proc/${pid}/fd`).map((fd): [string, string] => [fd, existsSync(`/proc/${pid}/fd/${fd}`) ? readlinkSync(`/proc/${pid}/fd/${fd}`) : ""]);
  return Object.fromEntries(fds.filter(([, path]) => path.startsWith(root) && /data\.ext4$|overlay\./.test(path))
    .map(([fd, path]) => [path.slice(root.length + 1), parseInt(/flags:\s*([0-7]+)/.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))![1]!, 8) & O_ACCMODE]));
}

test("a volume is an instance's from create to delete, asleep and stopped too; nobody else gets it, and it is not deleted", async () => {
  const fixture = await open();
  await make(fixture, "data");
  const { id, volumes } = await running(fixture, "one", ["serve"], { volumes: [mount("data")] });
  expect(volumes).toEqual([{ ...mount("id-data"), mountPath: "/data" }]);
  const other = (await fixture.instances.create(request("two", ["serve"], { volumes: [shared("data")] })))._unsafeUnwrapErr();
  expect({ code: other.code, message: other.message }).toEqual({ code: "volume.in_use", message: expect.stringContaining("instance one has it for writing") });
  for (const rest of [() => fixture.instances.standby("one"), () => fixture.instances.restore("one"), () => fixture.instances.stop("one", { graceMs: 1000 })]) {
    (await rest())._unsafeUnwrap();
    expect({ holders: holders(fixture, "data"), removed: fixture.volumes.remove("data")._unsafeUnwrapErr().code }).toEqual({ holders: [{ instanceId: id, mountPath: "/data", readonly: false }], removed: "volume.in_use" });
  }
  await remove(fixture, "one");
  expect({ holders: holders(fixture, "data"), names: fixture.instances.list(), folders: entries(fixture, "instances").filter((name) => !name.startsWith(".")) }).toEqual({ holders: [], names: [], folders: [] });
  fixture.volumes.remove("data")._unsafeUnwrap();
  await fixture.close();
});

test("what a guest was told of its disks' failures stands in the instance's log, by what is behind the disk", async () => {
  const fixture = await open();
  await make(fixture, "data", "more");
  await running(fixture, "one", ["disks-fail", "5", "28", "122", "13", "28"], { volumes: [mount("data"), layered("more")] });
  const told = () => logOf(fixture, "one").then((lines) => lines.flatMap((line) => /its guest got an I\/O error from (.*)/.exec(line)?.[1] ?? []));
  await until("the last of them", async () => (await told()).length === 5);
  const full = "there is no room for it on the host; make room, then stop and start the instance where its file system has gone read-only";
  expect(await told()).toEqual([
    "vda (its image): the host could not do what it asked for (EIO)", `vdb (its own disk): ${full}`, `vdc (volume id-data): ${full}`,
    "vdd (volume id-more): the host could not do what it asked for (EACCES)", `vde (what it has written over volume id-more): ${full}`,
  ]);
  await remove(fixture, "one");
  await fixture.close();
});

test("a create that fails, before or after its record, leaves no attachment", async () => {
  const fixture = await open();
  await make(fixture, "data", "more");
  for (const [code, change] of [
    ["volume.not_found", { volumes: [mount("data"), mount("nobody")] }], ["image.not_found", { image: "missing", volumes: [mount("data")] }],
    ["request.bad", { volumes: [mount("data"), mount("more", { mountPath: "/data" })] }], ["request.bad", { volumes: [mount("data", { mountPath: "/proc/x" })] }],
  ] as const) expect(await codeOf(fixture.instances.create(request("one", ["serve"], change)))).toBe(code);
  await running(fixture, "web", ["serve"], { network: false });
  fixture.network.ports.set("somebody", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]);
  expect(await codeOf(fixture.instances.create(request("one", ["serve"], { network: true, ports: [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }], volumes: [mount("data")] })))).toBe("port.taken");
  expect(await codeOf(fixture.instances.create(request("web", ["serve"], { volumes: [mount("data")] })))).toBe("instance.already_exists");
  expect({ data: holders(fixture, "data"), names: fixture.instances.list().map(({ name }) => name) }).toEqual({ data: [], names: ["web"] });
  await fixture.close();
});

test("a machine gets its disks in order, what is read alone by descriptors that can't write, and a layer of its own right behind its volume", async () => {
  const fixture = await open();
  await make(fixture, "a", "b", "c");
  const volumes = [mount("a"), layered("b"), shared("c")];
  const one = await running(fixture, "one", ["serve"], { volumes });
  const [pid] = monitorsIn(fixture.root) as [number];
  expect(opened(pid, fixture.root)).toEqual({ "volumes/id-a/data.ext4": O_RDWR, "volumes/id-b/data.ext4": O_RDONLY, "volumes/id-c/data.ext4": O_RDONLY, [`instances/${one.id}/overlay.id-b.ext4`]: O_RDWR });
  expect(overlays(fixture, one.id)).toEqual(["overlay.id-b.ext4"]);
  expect(configPairs(one, { ...imageConfig, volumes: ["/a/", "/b/c", "/kept"] }, null).filter(([key]) => key === "mount" || key === "volume")).toEqual([
    ["volume", "/b/c"], ["volume", "/kept"], ["mount", "vdc ext4 noatime /a"], ["mount", "vdd ext4 ro,overlay=vde /b"], ["mount", "vdf ext4 ro /c"],
  ]);
  const disks = [{ path: "", readonly: false, serial: "id-a" }, { path: "", readonly: true, serial: "id-b" }];
  expect(bootParams(one, true, { layers: [{ path: "", map: null }], volumes: disks }).disks.slice(2)).toEqual(disks.map(({ readonly, serial }) => ({ readonly, serial, remembered: true })));
  await remove(fixture, "one");
  await fixture.close();
});

test("attach and detach are for stopped instances, and say so to others", async () => {
  const fixture = await open();
  await make(fixture, "data", "more");
  const { id } = await running(fixture, "one");
  const refused = (await fixture.instances.attachVolume("one", mount("data")))._unsafeUnwrapErr();
  expect({ code: refused.code, message: refused.message }).toEqual({ code: "instance.invalid_state", message: "Cannot attach a volume to instance one: it is Running, not Stopped; stop it first, and start it again after that" });
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  for (const verb of [fixture.instances.attachVolume("one", mount("data")), fixture.instances.detachVolume("one", "data")]) expect(await codeOf(verb)).toBe("instance.invalid_state");
  await stop(fixture, "one");
  expect((await fixture.instances.attachVolume("one", mount("data")))._unsafeUnwrap().volumes).toEqual([mount("id-data", { mountPath: "/data" })]);
  expect(await codeOf(fixture.instances.attachVolume("one", mount("data", { mountPath: "/again" })))).toBe("volume.in_use");
  expect(await codeOf(fixture.instances.attachVolume("one", mount("more", { mountPath: "/data" })))).toBe("request.bad");
  (await fixture.instances.attachVolume("one", layered("more")))._unsafeUnwrap();
  expect(overlays(fixture, id)).toEqual(["overlay.id-more.ext4"]);
  // Refused, and what is in use stays.
  expect(await codeOf(fixture.instances.attachVolume("one", { ...layered("more"), mountPath: "/more/again" }))).toBe("volume.in_use");
  expect(overlays(fixture, id)).toEqual(["overlay.id-more.ext4"]);
  (await fixture.instances.start("one", {}))._unsafeUnwrap();
  await stop(fixture, "one");
  expect((await fixture.instances.detachVolume("one", "more"))._unsafeUnwrap().volumes.map(({ volumeId }) => volumeId)).toEqual(["id-data"]);
  expect({ overlays: overlays(fixture, id), again: await codeOf(fixture.instances.detachVolume("one", "more")) }).toEqual({ overlays: [], again: "volume.not_found" });
  await fixture.close();
});

test("what writes a volume, or over one, is not copied: no fork, no snapshot of any kind, and nothing half made", async () => {
  const fixture = await open();
  await make(fixture, "data");
  for (const volumes of [[mount("data")], [layered("data")]]) {
    await running(fixture, "one", ["serve"], { volumes });
    const refusals = async () => [await codeOf(fork(fixture, "one", "two")), await codeOf(snapshot(fixture, stateOf(fixture, "one") === "Stopped" ? "Stopped" : "Standby", "kept"))];
    for (const rest of [async () => {}, async () => (await fixture.instances.standby("one"))._unsafeUnwrap(), () => stop(fixture, "one")]) {
      await rest();
      const before = picture(fixture, "one");
      expect(await refusals()).toEqual(["request.not_supported", "request.not_supported"]);
      expect({ ...picture(fixture, "one"), names: fixture.instances.list().length, snapshots: fixture.instances.listSnapshots() }).toEqual({ ...before, names: 1, snapshots: [] });
    }
    expect((await fork(fixture, "one", "two"))._unsafeUnwrapErr().message).toContain("the volume data at /data");
    await remove(fixture, "one");
  }
  await fixture.close();
});

test("what is read alone is shared by forks and held by snapshots, until the last of them is deleted", async () => {
  const fixture = await open();
  await make(fixture, "data");
  await running(fixture, "one", ["serve"], { volumes: [shared("data")] });
  (await snapshot(fixture, "Standby", "kept"))._unsafeUnwrap();
  expect((await fork(fixture, "one", "two"))._unsafeUnwrap().volumes).toEqual([{ ...shared("id-data"), mountPath: "/data" }]);
  await remove(fixture, "one");
  const third = (await fixture.instances.forkSnapshot("kept", { name: "three", targetState: null }))._unsafeUnwrap();
  expect({ volumes: third.volumes.length, holders: holders(fixture, "data").length }).toEqual({ volumes: 1, holders: 2 });
  for (const name of ["two", "three"]) await remove(fixture, name);
  expect({ holders: holders(fixture, "data"), removed: fixture.volumes.remove("data")._unsafeUnwrapErr().message }).toEqual({ holders: [], removed: expect.stringContaining("snapshot kept has it") });
  expect(await codeOf(fixture.instances.create(request("four", ["serve"], { volumes: [mount("data")] })))).toBe("volume.in_use");
  (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
  fixture.volumes.remove("data")._unsafeUnwrap();
  await fixture.close();
});

test("a snapshot that is given back in place brings the volumes of its time, and the one that was written since is whole and free", async () => {
  const fixture = await open();
  await make(fixture, "old", "new", "over");
  const { id } = await running(fixture, "one", ["serve"], { volumes: [shared("old")] });
  (await snapshot(fixture, "Standby", "kept"))._unsafeUnwrap();
  await stop(fixture, "one");
  (await fixture.instances.detachVolume("one", "old").andThen(() => fixture.instances.attachVolume("one", mount("new"))).andThen(() => fixture.instances.attachVolume("one", layered("over"))))._unsafeUnwrap();
  (await fixture.instances.start("one", {}))._unsafeUnwrap();
  await until("it to run", () => stateOf(fixture, "one") === "Running");
  const back = (await fixture.instances.restoreSnapshot("one", "kept", null))._unsafeUnwrap();
  expect({ state: back.state, volumes: back.volumes.map(({ volumeId }) => volumeId), written: holders(fixture, "new"), overlays: overlays(fixture, id), monitors: monitorsIn(fixture.root).length })
    .toEqual({ state: "Running", volumes: ["id-old"], written: [], overlays: [], monitors: 1 });
  // It ended in order before its volume was anybody else's.
  const logs: string[] = [];
  for await (const line of fixture.instances.logs("one", { source: "dormouse", tail: 100, follow: false, signal: never() })._unsafeUnwrap()) logs.push(line);
  expect(logs.some((line) => line.includes("stopping, with 10000 ms of grace"))).toBe(true);
  await fixture.close();
});

for (const [what, spoil, repair] of [
  ["was moved away", (path: string) => renameSync(path, `${path}.away`), (path: string) => renameSync(`${path}.away`, path)],
  ["is another one", (path: string) => (renameSync(path, `${path}.away`), writeFileSync(path, new Uint8Array(64 * MIB))), (path: string) => renameSync(`${path}.away`, path)],
  ["was cut short", (path: string) => truncateSync(path, 63 * MIB), (path: string) => truncateSync(path, 64 * MIB)],
] as const)
  test(`a volume whose file ${what}: restore, stop and start say so, the record and the files stay right, and all works once it is back`, async () => {
    const fixture = await open();
    await make(fixture, "data");
    await asleep(fixture, "one", ["serve"], { volumes: [mount("data")] });
    const path = join(fixture.root, "volumes/id-data/data.ext4"), before = picture(fixture, "one");
    spoil(path);
    const error = (await fixture.instances.restore("one"))._unsafeUnwrapErr();
    expect({ code: error.code, message: error.message, ...picture(fixture, "one"), told: fixture.instances.get("one")._unsafeUnwrap().stateError })
      .toEqual({ code: "volume.missing", message: expect.stringContaining(path), ...before, told: error.message });
    const stopped = (await fixture.instances.stop("one"))._unsafeUnwrapErr();
    expect({ code: stopped.code, message: stopped.message }).toEqual({ code: "volume.missing", message: expect.stringContaining("its volumes keep what is on them") });
    expect((await fixture.instances.wake("one"))._unsafeUnwrapErr().code).toBe("instance.invalid_state"); // no policy lets requests wake it
    repair(path);
    expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
    await stop(fixture, "one");
    spoil(path);
    expect(await codeOf(fixture.instances.start("one", {}))).toBe("volume.missing");
    expect({ state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root), told: fixture.instances.get("one")._unsafeUnwrap().exitMessage }).toEqual({ state: "Stopped", monitors: [], told: expect.stringContaining(path) });
    repair(path);
    (await fixture.instances.start("one", {}))._unsafeUnwrap();
    await fixture.close();
  });

test("a request for one whose volume is missing fails and leaves it asleep, and the next one wakes it once the file is back", async () => {
  const fixture = await open();
  await make(fixture, "data");
  await asleep(fixture, "one", ["serve"], { volumes: [mount("data")], autoStandby: { enabled: true, idleTimeoutMs: 3_600_000, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: true } });
  const path = join(fixture.root, "volumes/id-data/data.ext4");
  renameSync(path, `${path}.away`);
  expect({ code: await codeOf(fixture.instances.wake("one")), state: stateOf(fixture, "one") }).toEqual({ code: "volume.missing", state: "Standby" });
  renameSync(`${path}.away`, path);
  expect((await fixture.instances.wake("one"))._unsafeUnwrap().state).toBe("Running");
  await fixture.close();
});

test("what was written over a volume and is missing is no empty layer at the next start or wake", async () => {
  const fixture = await open();
  await make(fixture, "data");
  const { id } = await asleep(fixture, "one", ["serve"], { volumes: [layered("data")] }), path = join(fixture.root, "instances", id, "overlay.id-data.ext4");
  renameSync(path, `${path}.away`);
  expect({ code: await codeOf(fixture.instances.restore("one")), exists: existsSync(path), state: stateOf(fixture, "one") }).toEqual({ code: "volume.missing", exists: false, state: "Standby" });
  renameSync(`${path}.away`, path);
  (await fixture.instances.restore("one"))._unsafeUnwrap();
  await stop(fixture, "one");
  rmSync(path);
  expect({ code: await codeOf(fixture.instances.start("one", {})), exists: existsSync(path) }).toEqual({ code: "volume.missing", exists: false });
  // Who gives it up begins with an empty one.
  (await fixture.instances.detachVolume("one", "data").andThen(() => fixture.instances.attachVolume("one", layered("data"))).andThen(() => fixture.instances.start("one", {})))._unsafeUnwrap();
  await fixture.close();
});
