// Which packets wake a sleeping guest, as a classic BPF program (linux/filter.h) for its TAP. The kernel runs it over the
// frame from its Ethernet header on (tun_net_xmit), before the virtio header is put in front of what a reader gets.
import { BPF, sock_filter } from "../../ffi/abi/filter.ts";
import { parseAddress } from "./address.ts";
import { IPPROTO } from "./ruleset.ts";
import { DormouseError } from "../../errors.ts";

// linux/if_ether.h; RFC 791, RFC 9293.
const ETH_TYPE = 12, ETH_P_IP = 0x0800;
const IP = 14, IP_FRAGMENT = IP + 6, IP_PROTOCOL = IP + 9, IP_DESTINATION = IP + 16, FRAGMENT_OFFSET = 0x1fff;
const TCP_FLAGS = 13, FIN = 0x01, SYN = 0x02, RST = 0x04, ACK = 0x10;
/** A filter returns how many bytes of the frame go on; the longest frame is shorter. */
const WHOLE = 0xffff_ffff;

type Target = "next" | "pass" | "drop";
interface Step { readonly code: number; readonly k: number; readonly yes?: Target; readonly no?: Target }

const load = (size: number, at: number, from: number = BPF.BPF_ABS): Step => ({ code: BPF.BPF_LD | size | from, k: at });
const jump = (how: number, k: number, yes: Target, no: Target): Step => ({ code: BPF.BPF_JMP | how | BPF.BPF_K, k, yes, no });

/**
 * Passes what may begin a conversation with `ip`: UDP, and TCP's SYN alone. All else is noise to somebody who sleeps:
 * ARP, IPv6, multicast, broadcast, ICMP, what is left of old flows. Of a datagram all fragments pass, or it would ring and not be
 * there; none come alone, as the kernel puts each packet together before it tracks it. A SYN is never cut.
 * A frame that ends within what is looked at is dropped.
 */
export function knockFilter(ip: string): Uint8Array {
  const address = parseAddress(ip);
  if (address === null) throw new DormouseError("internal", `Cannot make a filter for ${JSON.stringify(ip)}: it is not an address`);
  return assemble([
    load(BPF.BPF_H, ETH_TYPE), jump(BPF.BPF_JEQ, ETH_P_IP, "next", "drop"),
    load(BPF.BPF_W, IP_DESTINATION), jump(BPF.BPF_JEQ, address, "next", "drop"),
    load(BPF.BPF_B, IP_PROTOCOL), jump(BPF.BPF_JEQ, IPPROTO.udp, "pass", "next"), jump(BPF.BPF_JEQ, IPPROTO.tcp, "next", "drop"),
    load(BPF.BPF_H, IP_FRAGMENT), jump(BPF.BPF_JSET, FRAGMENT_OFFSET, "drop", "next"),
    { code: BPF.BPF_LDX | BPF.BPF_B | BPF.BPF_MSH, k: IP }, // X = length of the IP header
    load(BPF.BPF_B, IP + TCP_FLAGS, BPF.BPF_IND),
    { code: BPF.BPF_ALU | BPF.BPF_AND | BPF.BPF_K, k: SYN | ACK | RST | FIN },
    jump(BPF.BPF_JEQ, SYN, "pass", "drop"),
  ]);
}

/** `struct sock_filter` one after another; the two ends follow the steps. */
function assemble(steps: readonly Step[]): Uint8Array {
  const ends = { pass: steps.length, drop: steps.length + 1 };
  const all: readonly Step[] = [...steps, { code: BPF.BPF_RET | BPF.BPF_K, k: WHOLE }, { code: BPF.BPF_RET | BPF.BPF_K, k: 0 }];
  const program = new DataView(new ArrayBuffer(all.length * sock_filter.size));
  const distance = (target: Target = "next", from: number) => (target === "next" ? 0 : ends[target] - from - 1);
  all.forEach((step, i) => {
    const at = i * sock_filter.size;
    program.setUint16(at + sock_filter.at.code, step.code, true);
    program.setUint8(at + sock_filter.at.jt, distance(step.yes, i));
    program.setUint8(at + sock_filter.at.jf, distance(step.no, i));
    program.setUint32(at + sock_filter.at.k, step.k, true);
  });
  return new Uint8Array(program.buffer);
}
