// Volumes in real guests: what one has written another reads, through stops, sleep and death; what is read alone is shared.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { renameSync, rmSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { dir, file, hardlink, symlink, tar } from "../host/images/tar-builder.ts";
import { command } from "../support/command.ts";
import { exec } from "../support/exec.ts";
import { TempDir } from "../support/paths.ts";
import { Site, type Seen } from "../support/site.ts";

const LIMIT_MS = 300_000;
interface Volume { readonly id: string; readonly name: string; readonly attachments?: readonly { readonly instance_id: string }[] }

let site: Site;
beforeAll(async () => {
  site = await Site.start(["busybox"]);
  for (const name of ["data", "log"]) await site.daemon.run(["volume", "create", name, "--size", "1g"]);
}, LIMIT_MS);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
}, LIMIT_MS);

const boot = (name: string, volumes: readonly object[], body: object = {}) => site.boot(name, "busybox", { size: "128MB", volumes, ...body });
const sh = (ref: string, script: string) => site.exec(ref, "/bin/busybox", "sh", "-c", script);
const failing = (ref: string, script: string) => exec(site.daemon.url, ref, ["/bin/busybox", "sh", "-c", script]);
const volume = (name: string) => site.daemon.api<Volume>("GET", `/volumes/${name}`);
const fileOf = async (name: string) => join(site.daemon.dataDir, "volumes", (await volume(name)).id, "data.ext4");
/** What the file system says of itself. */
const superblock = async (name: string) => command(["dumpe2fs", "-h", await fileOf(name)]);
/** It ends in `Stopped`; why. */
async function ended(ref: string): Promise<string> { return (await site.reached(ref, "Stopped")).exit_message ?? ""; }

test("what an archive holds is in the guest as it was packed, and can be written", async () => {
  using at = new TempDir("archive");
  const content = Buffer.alloc(300_000, "0123456789abcdef\n");
  const entries = [
    dir("./", { mode: 0o1750, uid: 999, gid: 70_000 }), dir("etc", { mode: 0o700 }), file("etc/words", "words\n", { mode: 0o640, uid: 1000, gid: 1001, mtime: 1_000_000_000 }), hardlink("again", "etc/words"),
    symlink("etc/link", "/srv/packed/again"), file("content", content), file("run", "#!/bin/busybox sh\nid -u\n", { mode: 0o4755, uid: 7 }), { name: "null", type: "3", mode: 0o666, major: 1, minor: 3 },
  ];
  await Bun.write(at.join("a.tar.gz"), gzipSync(tar(entries)));
  expect(await site.daemon.run(["volume", "create", "packed", "--size", "1g", "--from", at.join("a.tar.gz")])).toBe("packed\n");
  await boot("packed", [{ volume_id: "packed", mount_path: "/srv/packed" }]);
  expect(await sh("packed", "cd /srv/packed; stat -c '%n %a %u %g %Y' . etc etc/words run | sed '/words/!s/ [0-9]*$//'; cat etc/words again etc/link; [ etc/words -ef again ] && echo same; sha256sum < content; ./run; echo x > null; ls -l null | cut -c1-10; echo more >> again; cat etc/words")).toBe([
    ". 1750 999 70000", "etc 700 0 0", "etc/words 640 1000 1001 1000000000", "run 4755 7 0", "words", "words", "words", "same", `${new Bun.CryptoHasher("sha256").update(content).digest("hex")}  -`, "0", "crw-rw-rw-", "words", "more", "",
  ].join("\n"));
  await site.daemon.run(["stop", "-t", "1", "packed"]);
  await command(["e2fsck", "-fn", await fileOf("packed")]);
  await site.remove("packed");
  await site.daemon.run(["volume", "rm", "packed"]);
}, LIMIT_MS);

test("what is written to a volume is there after a stop, whole, and for another instance", async () => {
  await boot("writer", [{ volume_id: "data", mount_path: "/data" }]);
  // As empty as a program that wants an empty folder needs it.
  expect(await sh("writer", "ls -A /data; mkdir /data/d; echo written > /data/d/file; grep ' /data ' /proc/mounts")).toMatch(/^\/dev\/vdc \/data ext4 rw,/);
  expect(await site.refused("POST", "/instances/writer/volumes/log", { mount_path: "/log" })).toMatchObject({ status: 409, code: "invalid_state", message: expect.stringContaining("stop it first") });
  await site.daemon.run(["stop", "-t", "1", "writer"]);
  expect(await superblock("data")).not.toContain("needs_recovery");
  await command(["e2fsck", "-fn", await fileOf("data")]);
  expect(await site.refused("DELETE", "/volumes/data")).toMatchObject({ status: 409, code: "in_use" });
  expect(await site.daemon.run(["volume", "detach", "writer", "data"])).toBe("data\n");
  await site.remove("writer");
}, LIMIT_MS);

/** When its file was written last. */
const touched = async () => statSync(await fileOf("data")).mtimeMs;

test("two read it at once and can't write it, whatever they try; a fork shares it", async () => {
  await boot("reader", [{ volume_id: "data", mount_path: "/data", readonly: true }]);
  await boot("layered", [{ volume_id: "data", mount_path: "/srv/data", readonly: true, overlay: true, overlay_size: "64MB" }]);
  expect([await sh("reader", "cat /data/d/file"), await sh("layered", "cat /srv/data/d/file")]).toEqual(["written\n", "written\n"]);
  const before = await touched();
  // Whoever writes to a file changes its time.
  for (const script of ["echo x > /data/d/file", "mount -o remount,rw /data && echo x > /data/d/file", "dd if=/dev/zero of=/dev/vdc bs=4096 count=1 conv=fsync"])
    expect((await failing("reader", script)).status).not.toBe(0);
  expect(await sh("layered", "echo over > /srv/data/d/file; mv /srv/data/d /srv/data/moved; sync; cat /srv/data/moved/file; ls -A /srv/data")).toBe("over\nmoved\n");
  expect(await site.refused("POST", "/instances/layered/fork", { name: "no", from_running: true })).toMatchObject({ status: 400, code: "not_supported" });
  await site.daemon.api("POST", "/instances/reader/fork", { name: "twin", from_running: true });
  await site.reached("twin", "Running");
  expect([await sh("twin", "cat /data/d/file"), await sh("reader", "cat /data/d/file")]).toEqual(["written\n", "written\n"]);
  expect(await touched()).toBe(before);
  await site.remove("reader", "twin");
  // What lies over it stays with its instance.
  await site.daemon.run(["stop", "-t", "1", "layered"]);
  await site.daemon.api("POST", "/instances/layered/start");
  await site.reached("layered", "Running");
  expect(await sh("layered", "cat /srv/data/moved/file; ls -A /srv/data")).toBe("over\nmoved\n");
  await site.remove("layered");
  expect((await volume("data")).attachments ?? []).toEqual([]);
}, LIMIT_MS);

test("a half-written file goes through standby and wake; one whose volume is away sleeps on until it is back", async () => {
  const script = "exec 3>/log/half; echo first >&3; while [ ! -e /go ]; do sleep 0.1; done; echo second >&3; exec sleep 1000000";
  await boot("sleeper", [{ volume_id: "log", mount_path: "/log" }], { cmd: ["/bin/busybox", "sh", "-c", script] });
  expect(await sh("sleeper", "until grep -q first /log/half; do sleep 0.1; done; cat /log/half")).toBe("first\n");
  await site.verb("sleeper", "standby");
  const file = await fileOf("log");
  renameSync(file, `${file}.away`);
  expect(await site.refused("POST", "/instances/sleeper/restore")).toMatchObject({ status: 409, code: "volume_missing", message: expect.stringContaining(file) });
  expect(await site.get("sleeper")).toMatchObject({ state: "Standby", state_error: expect.stringContaining(file) });
  // Another file system of the same size, which its memory knows nothing of.
  await command(["cp", "--sparse=always", await fileOf("data"), file]);
  expect(await site.refused("POST", "/instances/sleeper/restore")).toMatchObject({ status: 409, code: "snapshot_incompatible", message: expect.stringContaining("is not as its guest has left it") });
  renameSync(`${file}.away`, file);
  await site.verb("sleeper", "restore");
  expect(await sh("sleeper", "touch /go; until grep -q second /log/half; do sleep 0.1; done; cat /log/half; sync")).toBe("first\nsecond\n");
}, LIMIT_MS);

test("a volume whose writer was killed is not mounted readonly before its journal was replayed; nothing that was synced is lost", async () => {
  await site.remove("sleeper"); // at once: its machine is killed
  expect(await superblock("log")).toContain("needs_recovery");
  await site.daemon.api<Seen>("POST", "/instances", { name: "reader", image: (await site.daemon.api<{ name: string }[]>("GET", "/images"))[0]!.name, size: "128MB", volumes: [{ volume_id: "log", mount_path: "/log", readonly: true }] });
  expect(await ended("reader")).toContain("its last writer did not unmount it");
  await site.daemon.run(["volume", "detach", "reader", "log"]);
  await site.daemon.run(["volume", "attach", "reader", "log:/log"]);
  await site.daemon.api("POST", "/instances/reader/start");
  await site.reached("reader", "Running");
  expect(await sh("reader", "cat /log/half")).toBe("first\nsecond\n");
  await site.daemon.run(["stop", "-t", "1", "reader"]);
  expect(await superblock("log")).not.toContain("needs_recovery");
  await site.remove("reader");
}, LIMIT_MS);

test("where the host has no room for what a guest writes to its volume, the guest is told, and runs, sleeps and wakes on; with room all is well again", async () => {
  const file = await fileOf("log");
  using small = new TempDir("small");
  await command(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small.path]);
  try {
    await command(["cp", "--sparse=always", file, small.join("data.ext4")]);
    rmSync(file);
    symlinkSync(small.join("data.ext4"), file);
    await boot("full", [{ volume_id: "log", mount_path: "/log" }]);
    await sh("full", "echo kept > /log/kept; sync");
    // Not through the page cache: where it is ext4's journal that there is no room for, Linux never gets rid of the pages, and who has written them waits for good.
    expect(await failing("full", "dd if=/dev/zero of=/log/big bs=1M count=100 oflag=direct")).toMatchObject({ status: 1, stderr: expect.stringMatching(/Input\/output error|No space left|Read-only file system/) });
    expect(await site.told("full", `vdc (volume ${(await volume("log")).id}): there is no room for it on the host`)).toBeGreaterThan(0);
    await site.verb("full", "standby");
    await site.verb("full", "restore");
    expect(await sh("full", "cat /log/kept; echo own > /own; cat /own")).toBe("kept\nown\n");
    await site.daemon.run(["stop", "-t", "1", "full"]);
    await command(["mount", "-o", "remount,size=512m", small.path]);
    await site.daemon.api("POST", "/instances/full/start");
    await site.reached("full", "Running");
    expect(await sh("full", "dd if=/dev/zero of=/log/big bs=1M count=100 conv=fsync 2>&1; cat /log/kept")).toEndWith("kept\n");
    await site.remove("full");
  } finally {
    await command(["umount", "-l", small.path]);
  }
  for (const name of ["data", "log"]) await site.daemon.run(["volume", "rm", name]);
}, LIMIT_MS);
