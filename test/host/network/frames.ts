// Frames by hand, for tests: what a host may send towards a guest, and what it never would.
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { closeFd, tryRead } from "../../../src/ffi/fd.ts";
import { RouteSocket } from "../../../src/ffi/netlink/route.ts";
import { must } from "../../../src/ffi/syscall.ts";
import { VNET_HDR_SIZE } from "../../../src/ffi/tun.ts";
import { HOST_MAC, macBytes, parseAddress } from "../../../src/host/network/address.ts";

export const ETH_ARP = 0x0806, ETH_IP = 0x0800, ETH_IPV6 = 0x86dd, ICMP = 1, TCP = 6, UDP = 17;
export const FLAGS = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, ECE: 64, CWR: 128 } as const;

export const be = (size: number, value: number): number[] => Array.from({ length: size }, (_, i) => (value >>> (8 * (size - 1 - i))) & 0xff);
export const ip = (text: string): number[] => be(4, parseAddress(text) ?? 0);

export const ethernet = (destination: string, type: number, payload: readonly number[]): Uint8Array =>
  new Uint8Array([...macBytes(destination), ...macBytes(HOST_MAC), ...be(2, type), ...payload]);

/** An IPv4 packet; `fragment` is the word of flags and offset, `options` are bytes between header and payload. */
export function packet(protocol: number, source: string, destination: string, payload: readonly number[], { fragment = 0, options = [] }: { fragment?: number; options?: readonly number[] } = {}): number[] {
  const header = 20 + options.length;
  return [0x40 | (header / 4), 0, ...be(2, header + payload.length), 0, 0, ...be(2, fragment), 64, protocol, 0, 0, ...ip(source), ...ip(destination), ...options, ...payload];
}
export const segment = (flags: number, port = 80): number[] => [...be(2, 40_000), ...be(2, port), ...be(4, 1), ...be(4, 0), 0x50, flags, ...be(2, 65_535), 0, 0, 0, 0];
export const datagram = (port: number, text: string): number[] => [...be(2, 40_000), ...be(2, port), ...be(2, 8 + text.length), 0, 0, ...Buffer.from(text)];

const AF_PACKET = 17, SOCK_RAW = 3, SOCK_CLOEXEC = 0o2000000; // linux/if_packet.h

/** Sends whole frames by a link, as the kernel itself would. */
export class FrameSender {
  private readonly fd = must("Cannot open a packet socket", SYS.socket, AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  private readonly address = new DataView(new ArrayBuffer(20)); // struct sockaddr_ll

  constructor(link: string) {
    const route = new RouteSocket();
    this.address.setUint16(0, AF_PACKET, true);
    this.address.setInt32(4, route.link(link)?.index ?? 0, true);
    route.close();
  }

  send(frame: Uint8Array): void {
    must("Cannot send a frame", SYS.sendto, this.fd, frame, frame.length, 0, this.address, this.address.byteLength);
  }

  close(): void { closeFd(this.fd); }
}

const buffer = new Uint8Array(70_000);

/** The next frame that waits in a TAP, from its Ethernet header on; null where none does. */
export function nextFrame(tap: number): Uint8Array | null {
  const n = tryRead(tap, buffer, buffer.length);
  return n > 0 ? buffer.slice(VNET_HDR_SIZE, n) : null;
}

export function waiting(tap: number): Uint8Array[] {
  const all: Uint8Array[] = [];
  for (let frame = nextFrame(tap); frame !== null; frame = nextFrame(tap)) all.push(frame);
  return all;
}
