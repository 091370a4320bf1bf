// A daemon of its own process for the tests that kill one: opens the domain over the folder given and does one thing.
// Usage: daemon.ts ROOT create NAME CMD… | start NAME | remove NAME | standby NAME STEP VICTIM | restore NAME STEP VICTIM | idle
//      | write N fork (or snapshot, give-back, give-back-disk, fork-snapshot, drop, standby, restore, create, attach, detach, remove): of `one`, its snapshot
// `kept` and its fork `two`, or a `two` with the volume `data`; the daemon dies by SIGKILL before the Nth statement that changes the database, with `kill` for N as it is to end a monitor.
// Says `ready` once it is done. At STEP (src/host/instances/context.ts) VICTIM dies by SIGKILL: this `daemon`, or its `monitor`.
import type { Database } from "bun:sqlite";
import type { AsyncRes } from "../../../src/errors.ts";
import type { InstanceDeps } from "../../../src/host/instances/instances.ts";
import { Machine } from "../../../src/host/vmm/machine.ts";
import { open, monitorsIn, request, never} from "./fixture.ts";

const [root, verb, name = "", ...cmd] = process.argv.slice(2);
const [dieAt, victim] = cmd;
const onStep = (step: string): void => {
  if (step !== dieAt) return;
  for (const pid of victim === "daemon" ? [process.pid] : monitorsIn(root!)) process.kill(pid, "SIGKILL");
};
let writes = Infinity;
const { instances } = await open(root!, verb === "write" ? dyingAtWrites : verb === "standby" || verb === "restore" ? { onStep } : {});

function dyingAtWrites(db: Database): Partial<InstanceDeps> {
  const query = db.query.bind(db) as (sql: string) => object;
  const counted = (statement: object) => new Proxy(statement, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key);
      if (typeof value !== "function") return value;
      return (...values: unknown[]): unknown => {
        if (--writes === 0) process.kill(process.pid, "SIGKILL");
        return value.apply(target, values) as unknown;
      };
    },
  });
  return Object.assign(db, { query: (sql: string) => (/^\s*(INSERT|UPDATE|DELETE|WITH[^]*UPDATE)\b/.test(sql) ? counted(query(sql)) : query(sql)) }) && {};
}
if (verb === "create") {
  (await instances.create(request(name, cmd)))._unsafeUnwrap();
  await instances.wait(name, "Running", 20_000, never());
}
if (verb === "start") (await instances.start(name, {}))._unsafeUnwrap();
if (verb === "remove") (await instances.remove(name, { graceful: true }))._unsafeUnwrap();
// How it ends, where only its monitor dies, the test finds on record.
if (verb === "standby") await instances.standby(name);
if (verb === "restore") await instances.restore(name);
if (verb === "write") {
  if (name === "kill") Machine.prototype.kill = () => process.kill(process.pid, "SIGKILL");
  else writes = Number(name);
  const verbs: Record<string, () => AsyncRes<unknown>> = {
    fork: () => instances.fork("one", { name: "two", fromRunning: true, targetState: "Standby" }),
    snapshot: () => instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }),
    "give-back": () => instances.restoreSnapshot("one", "kept", "Standby"), "give-back-disk": () => instances.restoreSnapshot("one", "kept", "Stopped"),
    standby: () => instances.standby("one"), restore: () => instances.restore("one"), drop: () => instances.removeSnapshot("kept"),
    create: () => instances.create(request("two", ["serve"], { volumes: [{ volumeId: "data", mountPath: "/data", readonly: false, overlayBytes: null }] })).andThen(() => instances.wait("two", "Running", 20_000, never())),
    attach: () => instances.attachVolume("one", { volumeId: "data", mountPath: "/data", readonly: true, overlayBytes: 64 * 2 ** 20 }),
    detach: () => instances.detachVolume("one", "data"), remove: () => instances.remove("one", { graceful: false }),
    "fork-snapshot": () => instances.forkSnapshot("kept", { name: "two", targetState: "Standby" }),
  };
  await verbs[dieAt!]!();
}
console.log("ready");
setInterval(() => {}, 60_000);
