import { describe, expect, test } from "bun:test";
import { checkPolicy, counts, type PolicyRequest } from "../../../src/host/standby/policy.ts";
import { connection, policy } from "./support.ts";

describe("checkPolicy()", () => {
  test("fills in what is absent", () => {
    expect(checkPolicy({})._unsafeUnwrap()).toEqual(policy({ enabled: false, idleTimeoutMs: 0, wakeOnPacket: false }));
    expect(checkPolicy({ enabled: true, idleTimeoutMs: 500 })._unsafeUnwrap()).toEqual(policy({ idleTimeoutMs: 500, wakeOnPacket: true }));
    expect(checkPolicy({ enabled: false, idleTimeoutMs: 500, wakeOnPacket: true })._unsafeUnwrap()).toEqual(policy({ enabled: false, idleTimeoutMs: 500, wakeOnPacket: true }));
    expect(checkPolicy({ enabled: true, idleTimeoutMs: 500, wakeOnPacket: false })._unsafeUnwrap().wakeOnPacket).toBe(false);
  });

  test("brings lists into one form", () => {
    const request = { enabled: true, idleTimeoutMs: 1, ignoreDestinationPorts: [9090, 22, 22], ignoreSourceCidrs: ["10.1.2.3/8", "0.0.0.0/0", "192.0.2.7/32", "10.0.0.0/8"] };
    expect(checkPolicy(request)._unsafeUnwrap()).toMatchObject({ ignoreDestinationPorts: [22, 9090], ignoreSourceCidrs: ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32"] });
  });

  const bad: [request: PolicyRequest, says: string][] = [
    [{ enabled: true }, "without auto_standby.idle_timeout"],
    ...[0, -1, 0.5, NaN, Infinity, 1e12].map((idleTimeoutMs): [PolicyRequest, string] => [{ enabled: true, idleTimeoutMs }, "at least 1ms and at most ten years"]),
    [{ enabled: false, idleTimeoutMs: -1 }, "at least 1ms"],
    ...[0, -1, 65_536, 80.5, NaN].map((port): [PolicyRequest, string] => [{ ignoreDestinationPorts: [80, port] }, `Cannot use ${port} in`]),
    ...["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/8/8", "10.0.0.0/-1", "10.0.0.0/1e1", "::/0", "fe80::/10", "localhost/8", " 10.0.0.0/8"].map((cidr): [PolicyRequest, string] => [{ ignoreSourceCidrs: [cidr] }, JSON.stringify(cidr)]),
    [{ ignoreDestinationPorts: Array.from({ length: 257 }, (_, i) => i + 1) }, "more than 256"],
  ];
  test.each(bad)("refuses %j", (request, says) => {
    expect(checkPolicy(request)._unsafeUnwrapErr()).toMatchObject({ code: "request.bad", message: expect.stringContaining(says) });
  });
});

test("counts() leaves out ports of the guest, and clients' networks", () => {
  const qualifies = counts(policy({ ignoreDestinationPorts: [9090], ignoreSourceCidrs: ["192.0.2.0/25", "203.0.113.9/32"] }));
  expect(qualifies(connection({ from: "192.0.2.200" }))).toBe(true);
  expect(qualifies(connection({ from: "192.0.2.100" }))).toBe(false);
  expect(qualifies(connection({ from: "203.0.113.9" }))).toBe(false);
  expect(qualifies(connection({ from: "203.0.113.8", port: 9090 }))).toBe(false);
  expect(qualifies(connection({ from: "203.0.113.8", port: 9090, published: 80 }))).toBe(false);
  expect(qualifies(connection({ from: "203.0.113.8", port: 80, published: 9090 }))).toBe(true);
  expect(counts(policy({ ignoreSourceCidrs: ["0.0.0.0/0"] }))(connection())).toBe(false);
});
