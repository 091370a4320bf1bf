// Host names, the order of rules, and readers of bodies fed in any pieces.
import { describe, expect, test } from "bun:test";
import { bodyReader } from "../../../src/host/ingress/proxy/framing.ts";
import { cutHead, Malformed } from "../../../src/host/ingress/proxy/head.ts";
import { requestHead } from "../../../src/host/ingress/proxy/headers.ts";
import { checkHostname, hostOf, matchHost, shapeOf } from "../../../src/host/ingress/hostname.ts";
import type { Ingress } from "../../../src/host/ingress/service.ts";
import { RouteTable } from "../../../src/host/ingress/table.ts";
import { rule } from "./world.ts";

describe("host names", () => {
  test.each([["a.test", "a.test"], ["A.TEST:8080", "a.test"], ["a.test.", "a.test"], ["a.test.:80", "a.test"], ["127.0.0.1:80", "127.0.0.1"], ["[::1]:80", "[::1]"], ["a.test:", "a.test"]])("hostOf(%j) is %j", (text, name) => {
    expect(hostOf(text)).toBe(name);
  });
  test.each(["", "a b", "a.test:port", "a@b", "a/b", "a,b", "a.test:80:80", "a\ttest"])("hostOf(%j) is none", (text) => {
    expect(hostOf(text)).toBeNull();
  });
  test("captures match a whole label, and no empty or odd one", () => {
    const match = (host: string) => matchHost("{app}.{team}.test", host.split("."));
    expect(match("a.b.test")).toEqual({ app: "a", team: "b" });
    for (const host of ["a.test", "x.a.b.test", "a..test", "-a.b.test", "a_b.c.test", ".b.test", "a.b.tests", `${"a".repeat(64)}.b.test`]) expect(match(host)).toBeNull();
  });
  test("labels are small letters, names of captures are kept", () => {
    expect(checkHostname("{App}.Example.COM", "f")._unsafeUnwrap()).toBe("{App}.example.com");
    expect(shapeOf("{App}.example.com")).toBe("{}.example.com");
    for (const bad of ["", ".", "a.", "{}.x", "{a.b}.x", "a b", "ä.test", "-a.test", "{1}.test", `${"a.".repeat(127)}aa`]) expect(checkHostname(bad, "f").isErr()).toBe(true);
  });
});

describe("the table", () => {
  const all = ["{a}.{b}.test", "{a}.x.test", "y.{b}.test", "y.x.test", "{a}.test"].map((hostname) => rule(hostname, hostname, 1));
  for (const rules of [all, [...all].reverse()]) {
    test(`prefers literal names, then fewer captures, then those further right (${rules[0]!.hostname} first)`, () => {
      const table = new RouteTable([{ id: "i", name: "i", tags: {}, createdAt: 0, rules } as Ingress]);
      const found = (host: string) => table.find(80, host)?.instance;
      expect(["y.x.test", "y.z.test", "z.x.test", "p.q.test", "q.test", "test", "a.b.c.test"].map(found)).toEqual(["y.x.test", "y.{b}.test", "{a}.x.test", "{a}.{b}.test", "{a}.test", undefined, undefined]);
      expect(table.find(81, "y.x.test")).toBeNull();
    });
  }
});

describe("bodies in pieces", () => {
  const body = "5;x=y\r\nhello\r\n00A\r\n0123456789\r\n1\r\n\n\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\nREST";
  test.each([1, 2, 3, 5, 7, 11, 1000])("of %d bytes, chunked", (size) => {
    const reader = bodyReader({ kind: "chunked" });
    const bytes = Buffer.from(body);
    let got = "", rest = "";
    for (let at = 0; at < bytes.length; at += size) {
      const after = reader.read(bytes.subarray(at, at + size), (part) => void (got += Buffer.from(part).toString("latin1")));
      expect(after).not.toBeInstanceOf(Malformed);
      rest += Buffer.from(after as Uint8Array).toString("latin1");
    }
    expect([got, rest, reader.done]).toEqual(["hello0123456789\n", "REST", true]);
    let again = "";
    const add = (part: Uint8Array) => void (again += Buffer.from(part).toString("latin1"));
    const framed = bodyReader({ kind: "chunked" });
    for (let at = 0; at < bytes.length; at += size) framed.read(bytes.subarray(at, at + size), add, add);
    // Extensions and leading zeros are gone, and the end is for us to write.
    expect(again).toBe("5\r\nhello\r\na\r\n0123456789\r\n1\r\n\n\r\n");
    expect(reader.trailers.map(({ name, value }) => [name, value])).toEqual([["X-A", "1"], ["X-B", "2"]]);
  });
  test.each([1, 4, 100])("of %d bytes, by length", (size) => {
    const reader = bodyReader({ kind: "length", length: 10 });
    const bytes = Buffer.from("0123456789REST");
    let got = "", rest = "";
    for (let at = 0; at < bytes.length; at += size) rest += Buffer.from(reader.read(bytes.subarray(at, at + size), (part) => void (got += Buffer.from(part).toString())) as Uint8Array).toString();
    expect([got, rest, reader.done]).toEqual(["0123456789", "REST", true]);
  });
});

describe("cutHead()", () => {
  const cut = (text: string, lenient: boolean) => {
    const found = cutHead(Buffer.from(text, "latin1"), lenient);
    return found === null || found instanceof Malformed ? null : [found.text, Buffer.from(found.rest).toString("latin1")];
  };
  test.each([["a\r\nb\r\n\r\nrest"], ["a\nb\n\nrest"], ["a\nb\n\r\nrest"], ["a\r\nb\r\n\nrest"]])("takes %j leniently", (text) => {
    expect(cut(text, true)?.[0]!.split(/\r?\n/)).toEqual(["a", "b"]);
    expect(cut(text, true)?.[1]).toBe("rest");
  });
  test("takes CR LF only, where it is strict", () => {
    expect(cut("a\nb\n\n\r\n\r\nrest", false)).toEqual(["a\nb\n\n", "rest"]);
    expect(cut("a\n\n", false)).toBeNull();
    expect(cut("a\r\n\r", true)).toBeNull();
  });
});

describe("who the caller is", () => {
  const head = (address: string) =>
    requestHead(
      { method: "GET", target: "/", minor: 1, fields: [["X-Forwarded-For", "192.0.2.9"], ["X-Forwarded-Proto", "https"], ["X-Forwarded-Host", "evil.test"], ["Forwarded", "for=192.0.2.9"]].map(([name = "", value = ""]) => ({ name, key: name.toLowerCase(), value })) },
      "/", { caller: { address, host: "a.test" }, framing: { kind: "none" }, upgrade: null, secret: null });
  test("is what the connection says, not what a stranger says of itself", () => {
    expect(head("198.51.100.7")).toBe("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\n\r\n");
    expect(head("::ffff:198.51.100.7")).toContain("X-Forwarded-For: 198.51.100.7\r\n");
  });
  test("may be said by a proxy on this machine", () => {
    expect(head("127.0.0.1")).toBe("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nForwarded: for=192.0.2.9\r\nX-Forwarded-For: 192.0.2.9, 127.0.0.1\r\n\r\n");
  });
});
