import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "../../../src/host/store/store.ts";
import { networkMigrations } from "../../../src/host/network/migrations.ts";
import { parseRange } from "../../../src/host/network/address.ts";
import { LeaseStore } from "../../../src/host/network/leases.ts";
import { database } from "./world.ts";

const store = (range = "10.88.0.0/29") => new LeaseStore(database(), parseRange(range)._unsafeUnwrap());
const ipOf = (leases: LeaseStore, id: string) => leases.allocate(id)._unsafeUnwrap().ip;

describe("allocate()", () => {
  test("gives each instance one address, MAC and TAP, and the same again", () => {
    const leases = store();
    const a = leases.allocate("a")._unsafeUnwrap();
    expect(a).toEqual({ instanceId: "a", ip: "10.88.0.2", mac: "02:64:0a:58:00:02", gateway: "10.88.0.1", tap: "dormouse-2" });
    expect(leases.allocate("a")._unsafeUnwrap()).toEqual(a);
    expect(ipOf(leases, "b")).toBe("10.88.0.3");
  });

  test("gives an address back as late as possible", () => {
    const leases = store();
    expect(["a", "b"].map((id) => ipOf(leases, id))).toEqual(["10.88.0.2", "10.88.0.3"]);
    leases.remove("a");
    expect(["c", "d", "e"].map((id) => ipOf(leases, id))).toEqual(["10.88.0.4", "10.88.0.5", "10.88.0.6"]);
    expect(ipOf(leases, "f")).toBe("10.88.0.2");
    leases.remove("d");
    expect(ipOf(leases, "g")).toBe("10.88.0.5");
  });

  test("says when the range is full", () => {
    const leases = store();
    for (const id of ["a", "b", "c", "d", "e"]) ipOf(leases, id);
    const error = leases.allocate("f")._unsafeUnwrapErr();
    expect(error.code).toBe("resources.insufficient");
    expect(error.message).toContain("10.88.0.0/29");
    expect(leases.all()).toHaveLength(5);
  });

  test("stays quick in a crowd", () => {
    const leases = store("10.88.0.0/16");
    const given = new Set(Array.from({ length: 3000 }, (_, i) => ipOf(leases, `i${i}`)));
    expect(given.size).toBe(3000);
  });
});

test("setPorts() replaces an instance's ports and keeps those of others", () => {
  const leases = store();
  leases.allocate("a")._unsafeUnwrap();
  leases.allocate("b")._unsafeUnwrap();
  const port = (hostPort: number) => ({ hostPort, guestPort: 80, protocol: "tcp" }) as const;
  expect(leases.setPorts("a", [port(1), port(2)]).isOk()).toBe(true);
  expect(leases.setPorts("b", [port(3), port(2)])._unsafeUnwrapErr()).toMatchObject({ code: "port.taken", message: "Cannot publish port 2/tcp: instance a has published it; choose another port of the host, or delete that instance" });
  expect(leases.publishedOf("b")).toEqual([]);
  expect(leases.setPorts("a", [port(2)]).isOk()).toBe(true);
  expect(leases.setPorts("b", [port(1), { ...port(2), protocol: "udp" }]).isOk()).toBe(true);
  expect(leases.published().map((p) => `${p.instanceId} ${p.hostPort}/${p.protocol}`)).toEqual(["b 1/tcp", "a 2/tcp", "b 2/udp"]);
  leases.remove("b");
  expect(leases.published()).toHaveLength(1);
});

test("what was recorded is there for the next daemon", () => {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-leases-"));
  try {
    const open = () => openStore(join(dir, "dormouse.db"), networkMigrations)._unsafeUnwrap();
    const range = parseRange("10.88.0.0/16")._unsafeUnwrap();
    const first = open();
    const lease = new LeaseStore(first.db, range).allocate("a")._unsafeUnwrap();
    first.close();
    const second = open();
    expect(new LeaseStore(second.db, range).find("a")).toEqual(lease);
    expect(new LeaseStore(second.db, range).allocate("b")._unsafeUnwrap().ip).toBe("10.88.0.3");
    second.close();
  } finally {
    rmSync(dir, { recursive: true });
  }
});
