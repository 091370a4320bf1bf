import { expect, test } from "bun:test";
import { attr, attributeList, be32, concat, decode, encode, message, nest, readText, readU32, text, u32, u8 } from "../../src/ffi/netlink/message.ts";
import { NETLINK } from "../../src/ffi/abi/netlink.ts";
import { RTNL } from "../../src/ffi/abi/rtnetlink.ts";
import { RouteSocket } from "../../src/ffi/netlink/route.ts";
import { NetlinkError, NetlinkSocket } from "../../src/ffi/netlink/socket.ts";

test("attr() pads to four bytes and keeps its true length", () => {
  expect([...attr(3, u8(7))]).toEqual([5, 0, 3, 0, 7, 0, 0, 0]);
  expect([...attr(1, be32(0x0a000001))]).toEqual([8, 0, 1, 0, 10, 0, 0, 1]);
});

test("attributeList() reads what nest() wrote, and stops at nonsense", () => {
  const bytes = concat([attr(1, u32(42)), nest(2, attr(5, text("eth0")))]);
  const [one, two] = attributeList(bytes);
  expect(readU32(one?.[1])).toBe(42);
  expect(two?.[0]).toBe(2);
  expect(attributeList(two?.[1] ?? new Uint8Array()).map(([type, value]) => [type, readText(value)])).toEqual([[5, "eth0"]]);
  for (const bad of [[0, 0, 1, 0], [200, 0, 1, 0, 1, 2, 3, 4], [3, 0, 1, 0], [8, 0]]) expect(attributeList(new Uint8Array(bad))).toEqual([]);
});

test("decode() undoes encode()", () => {
  const packet = encode([message(20, 4, u32(1)), message(21, 0, u8(9))], 100);
  expect(decode(packet).map((m) => [m.type, m.flags, m.seq, m.body[0]])).toEqual([[20, 5, 100, 1], [21, 1, 101, 9]]);
  expect(decode(packet.subarray(0, 10))).toEqual([]);
});

test("request() throws the kernel's own reason", () => {
  const socket = new NetlinkSocket(NETLINK.NETLINK_ROUTE);
  const bad = message(RTNL.RTM_NEWROUTE, 0, new Uint8Array([2, 99, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]));
  const refused = () => socket.request("Cannot add a route", bad);
  expect(refused).toThrow(NetlinkError);
  expect(refused).toThrow("Cannot add a route: EINVAL (");
  socket.close();
});

test("a dump lists the loopback interface, and link() finds it by name", () => {
  const route = new RouteSocket();
  expect(route.links().find((link) => link.name === "lo")).toMatchObject({ index: 1 });
  expect(route.link("lo")?.index).toBe(1);
  expect(route.link("nobody0")).toBeNull();
  route.close();
});
