// A TAP frame by frame, driven by hand as a guest (good or bad) would.
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { closeFd, tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { attachFilter, detachFilter, tapName, VNET_HDR_SIZE } from "../../../src/ffi/tun.ts";
import { HOST_MAC, macBytes, parseAddress } from "../../../src/host/network/address.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import { counted, database, inNamespace, run } from "./world.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
let network: NetworkService, lease: Lease, tap: number;

inNamespace();
beforeEach(async () => {
  network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  lease = network.allocate("a")._unsafeUnwrap();
  tap = (await network.openTap(lease))._unsafeUnwrap();
});
afterEach(async () => {
  closeFd(tap);
  (await network.teardown())._unsafeUnwrap();
  network.close();
});

const ETH_ARP = 0x0806, ETH_IP = 0x0800, TCP = 6, UDP = 17;
const be = (size: number, value: number) => Array.from({ length: size }, (_, i) => (value >>> (8 * (size - 1 - i))) & 0xff);
const ip = (text: string) => be(4, parseAddress(text) ?? 0);
const ethernet = (destination: string, type: number, payload: number[]) =>
  new Uint8Array([...new Uint8Array(VNET_HDR_SIZE), ...macBytes(destination), ...macBytes(lease.mac), ...be(2, type), ...payload]);

function checksum(bytes: number[]): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
/** An UDP datagram without checksum (RFC 768 allows 0). */
function datagram(source: string, destination: string, port: number, text: string): Uint8Array {
  const udp = [...be(2, 5555), ...be(2, port), ...be(2, 8 + text.length), 0, 0, ...Buffer.from(text)];
  const header = [0x45, 0, ...be(2, 20 + udp.length), 0, 0, 0, 0, 64, UDP, 0, 0, ...ip(source), ...ip(destination)];
  const sum = checksum(header);
  header[10] = sum >>> 8;
  header[11] = sum & 0xff;
  return ethernet(HOST_MAC, ETH_IP, [...header, ...udp]);
}
const send = (frame: Uint8Array) => expect(tryWrite(tap, frame, frame.length)).toBe(frame.length);

const buffer = new Uint8Array(2048);
/** The next frame without its virtio header; null where none waits. */
function nextFrame(): Uint8Array | null {
  const n = tryRead(tap, buffer, buffer.length);
  return n > 0 ? buffer.slice(VNET_HDR_SIZE, n) : null;
}
async function awaitFrame(): Promise<Uint8Array> {
  for (;;) {
    const frame = nextFrame();
    if (frame !== null) return frame;
    await Bun.sleep(1);
  }
}
const typeOf = (frame: Uint8Array) => ((frame[12] ?? 0) << 8) | (frame[13] ?? 0);

test("the guest finds its gateway by ARP, with the one MAC of the host", async () => {
  const request = [...be(2, 1), ...be(2, ETH_IP), 6, 4, ...be(2, 1), ...macBytes(lease.mac), ...ip(lease.ip), 0, 0, 0, 0, 0, 0, ...ip(lease.gateway)];
  send(ethernet("ff:ff:ff:ff:ff:ff", ETH_ARP, request));
  const reply = await awaitFrame();
  expect(typeOf(reply)).toBe(ETH_ARP);
  expect([...reply.subarray(0, 6)]).toEqual([...macBytes(lease.mac)]);
  expect([...reply.subarray(22, 32)]).toEqual([...macBytes(HOST_MAC), ...ip(lease.gateway)]);
});

test("the first frame of a connection to a guest that nobody runs is the SYN itself", async () => {
  const connecting = Bun.spawn(["curl", "-s", `http://${lease.ip}/`], { stdout: "ignore" });
  const frame = await awaitFrame();
  connecting.kill();
  await connecting.exited;
  expect(typeOf(frame)).toBe(ETH_IP);
  expect([...frame.subarray(0, 12)]).toEqual([...macBytes(lease.mac), ...macBytes(HOST_MAC)]);
  expect(frame[14 + 9]).toBe(TCP);
  expect([...frame.subarray(14 + 12, 14 + 20)]).toEqual([...ip(lease.gateway), ...ip(lease.ip)]);
  expect((frame[14 + 20 + 13] ?? 0) & 0x3f).toBe(2); // SYN alone
});

test("a quiet TAP hears nothing: no IPv6, no multicast", () => {
  expect(nextFrame()).toBeNull();
  expect(run("ip", "-6", "addr", "show", "dev", lease.tap)).toBe("");
});

test("services on the host's loopback are out of reach, forged sources too", async () => {
  const heard: string[] = [];
  const server = await Bun.udpSocket({ hostname: "0.0.0.0", socket: { data(_, data) { heard.push(data.toString()); } } });
  send(datagram(lease.ip, "127.0.0.1", server.port, "to loopback"));
  send(datagram("10.88.0.77", lease.gateway, server.port, "forged"));
  send(datagram("127.0.0.1", lease.gateway, server.port, "from loopback"));
  send(datagram(lease.ip, lease.gateway, server.port, "honest"));
  while (!heard.includes("honest")) await Bun.sleep(1);
  expect(heard).toEqual(["honest"]);
  expect(counted("loopback services are not for guests")).toBe(1);
  server.close();
});

test("a packet to an address that nobody has is refused, and leaves by no other way", () => {
  expect(() => run("ping", "-c", "1", "10.88.0.200")).toThrow();
  expect(run("ip", "route", "show", "type", "unreachable")).toContain("unreachable 10.88.0.0/16");
});

test("the TAP goes with its last descriptor", () => {
  expect(tapName(tap)).toBe(lease.tap);
  closeFd(tap);
  expect(run("ip", "-br", "link")).not.toContain(lease.tap);
  expect(run("ip", "route")).not.toContain(lease.ip);
  tap = -1;
});

test("a TAP that a monitor hands back is set up as a new one is", async () => {
  const table = () => run("nft", "list", "set", "ip", "dormouse", "guests");
  const link = () => [run("ip", "-br", "link", "show", lease.tap), run("ip", "route", "show", "dev", lease.tap), run("ip", "neigh", "show", "dev", lease.tap)];
  const before = [...link(), table()];
  run("ip", "link", "set", lease.tap, "down"); // routes and neighbours go with it
  run("nft", "flush", "set", "ip", "dormouse", "guests");
  (await network.adoptTap(lease, tap))._unsafeUnwrap();
  expect([...link(), table()]).toEqual(before);
  (await network.adoptTap(lease, tap))._unsafeUnwrap();
  expect([...link(), table()]).toEqual(before);
});

test("no other TAP is taken for it, and none that was removed", async () => {
  const other = network.allocate("b")._unsafeUnwrap(), otherTap = (await network.openTap(other))._unsafeUnwrap();
  expect((await network.adoptTap(lease, otherTap))._unsafeUnwrapErr().message).toContain(`its monitor handed out ${other.tap} instead`);
  expect((await network.adoptTap({ ...lease, ip: other.ip }, tap))._unsafeUnwrapErr().message).toContain("not on record");
  run("ip", "link", "del", other.tap);
  expect((await network.adoptTap(other, otherTap))._unsafeUnwrapErr().message).toContain("the link was removed from the host");
  closeFd(otherTap);
});

test("a filter in the kernel drops what it says", async () => {
  const accept = new Uint8Array([6, 0, 0, 0, 0xff, 0xff, 0, 0]), drop = new Uint8Array([6, 0, 0, 0, 0, 0, 0, 0]); // BPF_RET | BPF_K
  const ping = () => Bun.spawnSync(["ping", "-c", "1", "-W", "0.01", lease.ip]);
  attachFilter(tap, drop);
  ping();
  expect(nextFrame()).toBeNull();
  attachFilter(tap, accept);
  ping();
  expect(typeOf(await awaitFrame())).toBe(ETH_IP);
  detachFilter(tap);
});
