import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostResolvers, parseResolvers, usableResolvers } from "../../../src/host/network/resolvers.ts";

test("usableResolvers() leaves out loopback, IPv6, comments and repetitions", () => {
  const text = "# nameserver 1.1.1.1\nsearch example.com\nnameserver 127.0.0.53\nnameserver ::1\n nameserver\t192.0.2.53\nnameserver 192.0.2.53\nnameserver 198.51.100.1 # second\noptions edns0\n";
  expect(usableResolvers(text)).toEqual(["192.0.2.53", "198.51.100.1"]);
});

test("hostResolvers() looks behind the stub of systemd-resolved", () => {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-resolvers-"));
  try {
    const [stub, real, none] = [join(dir, "stub"), join(dir, "real"), join(dir, "none")];
    writeFileSync(stub, "nameserver 127.0.0.53\n");
    writeFileSync(real, "nameserver 192.0.2.53\n");
    expect(hostResolvers([stub, real])).toEqual(["192.0.2.53"]);
    expect(hostResolvers([none, real])).toEqual(["192.0.2.53"]);
    expect(hostResolvers([stub, none])).toEqual([]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("parseResolvers() refuses what guests cannot use", () => {
  expect(parseResolvers(["192.0.2.53"])._unsafeUnwrap()).toEqual(["192.0.2.53"]);
  expect(parseResolvers(["127.0.0.1"])._unsafeUnwrapErr().code).toBe("request.bad");
  expect(parseResolvers(["dns.example"])._unsafeUnwrapErr().code).toBe("request.bad");
});
