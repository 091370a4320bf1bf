// Snapshots and forks, on a file system that can reflink and on one that can't: who descends from one machine shares nothing but the past.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { TempDir } from "../support/paths.ts";
import { Site, type Seen } from "../support/site.ts";
import { Soak, type Drawn } from "../support/soak.ts";
import { until } from "../support/until.ts";

const LIMIT_MS = 300_000;
interface Snapshot { readonly id: string; readonly name: string; readonly kind: string; readonly source_instance_name: string; readonly size_bytes: number }

/** Elsewhere than in the testbed there is the one file system that temporary files are on. */
const places: readonly [string, string | undefined][] =
  process.env["DORMOUSE_TESTBED"] === "1" ? [["ext4", "/var/lib/dormouse"], ["XFS", "/scratch"]] : [["this file system", undefined]];

describe.each(places)("on %s", (_, parent) => {
  let folder: TempDir;
  let site: Site;
  let source: Soak;
  beforeAll(async () => {
    folder = new TempDir("data", parent);
    site = await Site.start(["soak", "busybox"], { dataDir: folder.path });
    source = new Soak((await site.boot("source", "soak")).network!.ip!);
    await source.ready();
  }, 300_000);
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    folder?.[Symbol.dispose]();
  }, 300_000);

  const sh = (ref: string, script: string) => site.exec(ref, "sh", "-c", script);
  const snapshots = () => site.daemon.api<Snapshot[]>("GET", "/snapshots");
  const soakOf = async (ref: string) => new Soak((await site.reached(ref, "Running")).network!.ip!);

  /** It is who its record says, in every place that tells. */
  async function isItself(ref: string): Promise<Drawn> {
    const { network } = await site.get(ref);
    const drawn = await new Soak(network!.ip!).draw();
    expect(drawn).toMatchObject({ hostname: ref, hostname_file: ref, address: network!.ip! });
    expect(drawn.hosts).toMatch(new RegExp(`^${network!.ip!.replaceAll(".", "\\.")}\\s+${ref}$`, "m"));
    return drawn;
  }

  test("two forks of one snapshot are themselves, draw different bytes, and go on where it was taken", async () => {
    await sh("source", "echo early > /root/early; sync");
    const before = await source.state();
    const taken = await site.daemon.api<Snapshot>("POST", "/instances/source/snapshots", { kind: "Standby", name: "base", tags: { of: "test" } });
    expect(taken).toMatchObject({ name: "base", kind: "Standby", source_instance_name: "source" });
    await sh("source", "echo late > /root/late; sync");
    const sourceAfter = await source.goesOnFrom(before);
    for (const name of ["left", "right"]) await site.daemon.api("POST", `/snapshots/${taken.id}/fork`, { name });
    const forks = [await soakOf("left"), await soakOf("right")];
    for (const fork of forks) await fork.goesOnFrom(before);
    const drawn = [await isItself("left"), await isItself("right"), await isItself("source")];
    const bytes = drawn.flatMap(({ urandom, getrandom, own }) => [urandom, getrandom, own]);
    expect(new Set(bytes).size).toBe(bytes.length);
    for (const name of ["left", "right"]) {
      expect(await sh(name, "cat /root/early; ls /root/late 2>&1 || true")).toMatch(/^early\n.*No such file/);
      await sh(name, `echo ${name} > /root/own; sync`);
    }
    expect([await sh("left", "cat /root/own"), await sh("right", "cat /root/own")]).toEqual(["left\n", "right\n"]);
    await source.goesOnFrom(sourceAfter);
    for (const soak of [...forks, source]) expect((await soak.check()).errors).toEqual([]);
  }, LIMIT_MS);

  test("snapshots are listed by what they are", async () => {
    const of = async (query: string) => (await site.daemon.api<Snapshot[]>("GET", `/snapshots?${query}`)).map(({ name }) => name);
    expect(await of("kind=Standby")).toEqual(["base"]);
    expect(await of("kind=Stopped")).toEqual([]);
    expect(await of("tags[of]=test")).toEqual(["base"]);
    expect(await of("tags[of]=other")).toEqual([]);
    expect((await snapshots())[0]!.size_bytes).toBeGreaterThan(2 ** 20);
    expect(await site.refused("POST", "/instances/source/snapshots", { kind: "Standby", name: "base" })).toMatchObject({ status: 409 });
    expect(await site.refused("POST", "/instances/source/snapshots", { kind: "Stopped", name: "other" })).toMatchObject({ status: 409, code: "invalid_state" });
  }, LIMIT_MS);

  test("a fork of a running instance needs from_running, and both go on; one of a sleeping one sleeps", async () => {
    expect(await site.refused("POST", "/instances/right/fork", { name: "twin" })).toMatchObject({ status: 409 });
    const before = await (await soakOf("right")).state();
    await site.daemon.api("POST", "/instances/right/fork", { name: "twin", from_running: true });
    await (await soakOf("twin")).goesOnFrom(before);
    await (await soakOf("right")).goesOnFrom(before);
    await isItself("twin");
    expect(await sh("twin", "cat /root/own")).toBe("right\n");
    await site.verb("twin", "standby");
    expect(await site.refused("POST", "/instances/twin/fork", { name: "left" })).toMatchObject({ status: 409 });
    await site.daemon.api("POST", "/instances/twin/fork", { name: "sleeper" });
    await site.reached("sleeper", "Standby");
    await site.remove("twin");
    await site.verb("sleeper", "restore");
    await isItself("sleeper");
    expect(await sh("sleeper", "cat /root/own")).toBe("right\n");
  }, LIMIT_MS);

  test("a snapshot is restored in place, disk and all", async () => {
    const [base] = await snapshots();
    const now = await source.state();
    await site.daemon.api("POST", `/instances/source/snapshots/${base!.id}/restore`, { target_state: "Running" });
    const then = await (await soakOf("source")).state();
    expect(then.counts["lines"]!).toBeLessThan(now.counts["lines"]!);
    expect(await sh("source", "cat /root/early; ls /root/late 2>&1 || true")).toMatch(/^early\n.*No such file/);
    expect((await source.check()).errors).toEqual([]);
  }, LIMIT_MS);

  test("a stopped one is kept and forked by its disk alone, and boots from it", async () => {
    const busybox = (ref: string, script: string) => site.exec(ref, "/bin/busybox", "sh", "-c", script);
    await site.boot("rest", "busybox", { size: "128MB" });
    await busybox("rest", "echo early > /kept; sync");
    await site.stop("rest");
    const still = await site.daemon.api<Snapshot>("POST", "/instances/rest/snapshots", { kind: "Stopped", name: "still" });
    expect(still).toMatchObject({ name: "still", kind: "Stopped", source_instance_name: "rest" });
    expect(await site.refused("POST", "/instances/rest/snapshots", { kind: "Standby", name: "other" })).toMatchObject({ status: 409, code: "invalid_state" });
    expect(await site.daemon.api<Seen>("POST", `/snapshots/${still.id}/fork`, { name: "kept" })).toMatchObject({ state: "Stopped" });
    expect(await site.refused("POST", "/instances/kept/fork", { name: "other", target_state: "Standby" })).toMatchObject({ status: 409, code: "invalid_state" });
    const second = site.start("rest");
    await site.daemon.api("POST", "/instances/kept/fork", { name: "grown", target_state: "Running" });
    await second;
    await busybox("rest", "echo late > /kept; sync");
    await site.daemon.api("POST", `/instances/rest/snapshots/${still.id}/restore`, { target_state: "Running" });
    // Neither of those that it descends from is needed any more.
    await site.remove("kept");
    await site.daemon.api("DELETE", `/snapshots/${still.id}`);
    for (const ref of ["rest", "grown"]) {
      await site.reached(ref, "Running");
      expect(await busybox(ref, "cat /kept")).toBe("early\n");
    }
    await site.remove("rest", "grown");
  }, LIMIT_MS);

  test("whatever is deleted first, the others have all that they need; in the end nothing is left", async () => {
    const [base] = await snapshots();
    await site.remove("source", "right");
    expect((await (await soakOf("left")).check()).errors).toEqual([]);
    await site.daemon.api("POST", `/snapshots/${base!.id}/fork`, { name: "orphan" });
    await isItself("orphan");
    await site.verb("left", "standby");
    await site.daemon.api("DELETE", `/snapshots/${base!.id}`);
    await site.verb("left", "restore");
    for (const name of ["left", "orphan", "sleeper"]) expect((await (await soakOf(name)).check()).errors).toEqual([]);
    await site.verb("orphan", "standby");
    await site.remove("left", "sleeper", "orphan");
    expect(await snapshots()).toEqual([]);
    await until("the files to be gone", () => {
      const left = ["memory", "disks", "snapshots", "instances"].filter((name) => existsSync(join(folder.path, name)))
        .flatMap((name) => readdirSync(join(folder.path, name)).filter((entry) => !entry.startsWith(".")).map((entry) => join(name, entry)));
      if (left.length > 0) throw new Error(`there are ${left.join(", ")}; ${site.daemon.log.slice(-1500)}`);
      return true;
    });
  }, LIMIT_MS);
});
