// Copies and stats through a real monitor process, and what they mean for sleep; stand-in.ts plays the agent.
import { afterAll, afterEach, expect, test } from "bun:test";
import type { CopyListener, CopyRequest } from "../../../src/host/instances/copy-service.ts";
import { Activities } from "../../../src/host/standby/activity.ts";
import { until } from "../../support/until.ts";
import { open, removeRoots, type Fixture } from "./fixture.ts";
import { asleep, begun, codeOf, running, stateOf } from "./sleeping.ts";

let f: Fixture;
afterEach(() => f.close());
afterAll(removeRoots);

const wakes = { enabled: false, idleTimeoutMs: 0, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: true };
const from = (path: string): CopyRequest => ({ direction: "out", path, followLinks: "none", makeParents: false });

/** What a copy says, a word a call. */
class Gather implements CopyListener {
  readonly said: string[] = [];
  onEntry({ kind, mode }: Parameters<CopyListener["onEntry"]>[0]): void { this.said.push(`${kind} ${mode.toString(8)}`); }
  onData(bytes: Uint8Array): void { this.said.push(Buffer.from(bytes).toString()); }
  onFileEnd(): void { this.said.push("end of file"); }
  onSkipped(): void {}
  onDrain(): void {}
  onEnd({ error, bytes }: Parameters<CopyListener["onEnd"]>[0]): void { this.said.push(error ?? `end ${bytes}`); }
  onLost(reason: string): void { this.said.push(reason); }
}
const copy = async (path: string) => {
  const gather = new Gather();
  return { gather, session: (await f.instances.copy("web", from(path), gather))._unsafeUnwrap() };
};

test("copy() brings files and stat() what is at a path; neither keeps awake once it is over", async () => {
  const activities = new Activities();
  f = await open(undefined, { activities });
  const { id } = await running(f, "web");
  const { gather } = await copy("/f");
  await until("the end", () => gather.said.at(-1) === "end 3");
  expect(gather.said).toEqual(["file 644", "abc", "end of file", "end 3"]);
  expect((await f.instances.stat("web", { path: "/f", followLinks: false }))._unsafeUnwrap()).toMatchObject({ entry: { kind: "file", mode: 0o644, sizeBytes: 3 }, error: null });
  expect(activities.of(id).open).toBe(0);
});

test("an open copy keeps its instance awake until it hangs up or the guest goes", async () => {
  const activities = new Activities();
  const inUse = async ({ id }: { readonly id: string }) => (activities.of(id).open > 0 ? "a session is open" : null);
  f = await open(undefined, { activities, guard: { forget() {}, visitors: inUse, lateVisitors: inUse } });
  const { id } = await running(f, "web");
  const { session } = await copy("/stuck");
  expect([activities.of(id).open, await codeOf(f.instances.standby("web")), stateOf(f, "web")]).toEqual([1, "conflict", "Running"]);
  session.close();
  session.close();
  expect(activities.of(id).open).toBe(0);
  (await f.instances.standby("web"))._unsafeUnwrap();
  (await f.instances.restore("web"))._unsafeUnwrap();
  const { gather } = await copy("/stuck");
  (await f.instances.remove("web", { graceful: false }))._unsafeUnwrap();
  await until("the loss", () => gather.said.length > 0);
  expect([gather.said, activities.of(id).open]).toEqual([["the guest's agent hung up"], 0]);
});

test("a copy and a stat wake a sleeper where its policy lets requests do that", async () => {
  f = await open();
  await asleep(f, "web", ["serve"], { autoStandby: wakes });
  const { gather } = await copy("/f");
  await until("the end", () => gather.said.at(-1) === "end 3");
  (await f.instances.standby("web"))._unsafeUnwrap();
  expect((await f.instances.stat("web", { path: "/f", followLinks: true }))._unsafeUnwrap().entry?.kind).toBe("file");
  expect(stateOf(f, "web")).toBe("Running");
  await asleep(f, "deaf", ["serve"]);
  expect([await codeOf(f.instances.copy("deaf", from("/f"), new Gather())), await codeOf(f.instances.stat("deaf", { path: "/f", followLinks: true })), stateOf(f, "deaf")]).toEqual(["instance.invalid_state", "instance.invalid_state", "Standby"]);
});

test("a copy calls off a standby that has begun", async () => {
  f = await open();
  await running(f, "web", ["save-slowly", "60000"], { autoStandby: wakes });
  const sleeping = f.instances.standby("web");
  await begun(f);
  const { gather } = await copy("/f");
  await until("the end", () => gather.said.at(-1) === "end 3");
  expect([(await sleeping)._unsafeUnwrapErr().code, stateOf(f, "web")]).toEqual(["conflict", "Running"]);
});
