import { describe, expect, test } from "bun:test";
import { formatAddress, macOf, overlap, parseAddress, parseRange, tapOf } from "../../../src/host/network/address.ts";

const range = (text: string) => parseRange(text)._unsafeUnwrap();

test("parseAddress() and formatAddress() undo each other", () => {
  for (const text of ["0.0.0.0", "10.88.0.1", "255.255.255.255", "192.168.1.254"]) expect(formatAddress(parseAddress(text) ?? -1)).toBe(text);
  for (const text of ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "a.b.c.d", "1.2.3.-4", "::1"]) expect(parseAddress(text)).toBeNull();
});

describe("parseRange()", () => {
  test("takes CIDR notation", () => {
    expect(range("10.88.0.0/16")).toEqual({ base: 0x0a580000, prefix: 16, text: "10.88.0.0/16", gateway: 0x0a580001 });
  });
  test("refuses what cannot be a range for guests, and says why", () => {
    const why = (text: string) => parseRange(text)._unsafeUnwrapErr().message;
    for (const text of ["", "10.88.0.0", "10.88.0.0/", "10.88.0.0/16/1", "fd00::/8", "10.88.0.0/x"]) expect(why(text)).toContain("not an IPv4 range");
    expect(why("10.88.0.5/16")).toContain("did you mean 10.88.0.0/16?");
    expect(why("10.88.0.0/30")).toContain("between /8 and /29");
    expect(why("0.0.0.0/4")).toContain("between /8 and /29");
    expect(why("127.0.0.0/8")).toContain("reserved");
    expect(why("224.0.0.0/8")).toContain("reserved");
  });
});

test("overlap() holds where one range contains the other", () => {
  const at = (text: string) => range(text);
  expect(overlap(at("10.88.0.0/16"), at("10.88.4.0/24"))).toBe(true);
  expect(overlap(at("10.88.4.0/24"), at("10.88.0.0/16"))).toBe(true);
  expect(overlap(at("10.88.0.0/16"), at("10.89.0.0/16"))).toBe(false);
  expect(overlap(at("192.168.0.0/24"), at("192.168.1.0/24"))).toBe(false);
});

test("tapOf() fits into 15 bytes, and macOf() is local and no group's", () => {
  expect(tapOf(range("10.88.0.0/16"), 0x0a580002)).toBe("dormouse-2");
  expect(tapOf(range("10.0.0.0/8"), 0x0afffffe)).toHaveLength(15);
  expect(macOf(0x0a580002)).toBe("02:64:0a:58:00:02");
});
