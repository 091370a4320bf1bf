// The nf_tables expressions that rules are made of (linux/netfilter/nf_tables.h), each one step of the kernel's small
// register machine: load into a register, compare, look up, decide. A comparison that fails ends the rule.
import { NF } from "../abi/netfilter.ts";
import { IPS } from "../abi/nf_conntrack_common.ts";
import { NFT } from "../abi/nf_tables.ts";
import { attr, be32, nest, text, u32, u8 } from "./message.ts";

export interface Expression { readonly name: string; readonly data: readonly Uint8Array[] }

/** linux/netfilter/nf_conntrack_common.h: bits of `ct state` (1 << (enum ip_conntrack_info + 1); invalid is 1). */
export const CT_STATE = { INVALID: 1, ESTABLISHED: 2, RELATED: 4, NEW: 8 } as const;

const REG = NFT.NFT_REG_1;
const value = (bytes: Uint8Array): Uint8Array => attr(NFT.NFTA_DATA_VALUE, bytes);

/** Compares the first register with `bytes`, as many of them as are given. */
const compare = (op: number, bytes: Uint8Array): Expression =>
  ({ name: "cmp", data: [attr(NFT.NFTA_CMP_SREG, be32(REG)), attr(NFT.NFTA_CMP_OP, be32(op)), nest(NFT.NFTA_CMP_DATA, value(bytes))] });
const equal = (bytes: Uint8Array) => compare(NFT.NFT_CMP_EQ, bytes);
const different = (bytes: Uint8Array) => compare(NFT.NFT_CMP_NEQ, bytes);

const meta = (key: number, register: number): Expression => ({ name: "meta", data: [attr(NFT.NFTA_META_KEY, be32(key)), attr(NFT.NFTA_META_DREG, be32(register))] });
const payload = (base: number, offset: number, length: number, register: number): Expression => ({
  name: "payload",
  data: [attr(NFT.NFTA_PAYLOAD_DREG, be32(register)), attr(NFT.NFTA_PAYLOAD_BASE, be32(base)), attr(NFT.NFTA_PAYLOAD_OFFSET, be32(offset)), attr(NFT.NFTA_PAYLOAD_LEN, be32(length))],
});
/** Register = (register & mask) ^ 0. */
const masked = (mask: Uint8Array): Expression => ({
  name: "bitwise",
  data: [
    attr(NFT.NFTA_BITWISE_SREG, be32(REG)), attr(NFT.NFTA_BITWISE_DREG, be32(REG)), attr(NFT.NFTA_BITWISE_LEN, be32(mask.length)),
    nest(NFT.NFTA_BITWISE_MASK, value(mask)), nest(NFT.NFTA_BITWISE_XOR, value(new Uint8Array(mask.length))),
  ],
});

// Offsets in the IPv4 header (RFC 791) and of the destination port in TCP's and UDP's.
const IP_SADDR = 12, IP_DADDR = 16, PORT_DESTINATION = 2;
type End = "saddr" | "daddr";
const ipAddress = (end: End, register: number) => payload(NFT.NFT_PAYLOAD_NETWORK_HEADER, end === "saddr" ? IP_SADDR : IP_DADDR, 4, register);
const interfaceKey = (side: "in" | "out") => (side === "in" ? NFT.NFT_META_IIFNAME : NFT.NFT_META_OIFNAME);

/** The interface's name begins with `prefix` (or does not). */
export const interfaceIs = (side: "in" | "out", prefix: string, is = true): Expression[] =>
  [meta(interfaceKey(side), REG), (is ? equal : different)(Buffer.from(prefix))];
/** The interface's name is `name`, whole (or is not). */
export const interfaceNamed = (side: "in" | "out", name: string, is = true): Expression[] =>
  [meta(interfaceKey(side), REG), (is ? equal : different)(interfaceBytes(name))];

/** An address equals one of a prefix (or does not); `prefix` 32 for a single one. */
export function addressIn(end: End, address: number, prefix: number, is = true): Expression[] {
  const test = (is ? equal : different)(be32(address));
  return prefix === 32 ? [ipAddress(end, REG), test] : [ipAddress(end, REG), masked(be32((0xffffffff << (32 - prefix)) >>> 0)), test];
}

/** The destination is an address of the host itself. */
export const toLocalAddress = (): Expression[] => [
  { name: "fib", data: [attr(NFT.NFTA_FIB_DREG, be32(REG)), attr(NFT.NFTA_FIB_RESULT, be32(NFT.NFT_FIB_RESULT_ADDRTYPE)), attr(NFT.NFTA_FIB_FLAGS, be32(NFT.NFTA_FIB_F_DADDR))] },
  equal(u32(2)), // RTN_LOCAL
];

const ct = (key: number, bits: number): Expression[] => [
  { name: "ct", data: [attr(NFT.NFTA_CT_DREG, be32(REG)), attr(NFT.NFTA_CT_KEY, be32(key))] }, masked(u32(bits)), different(u32(0)),
];
/** The connection is in one of these states (CT_STATE bits). */
export const connectionState = (bits: number) => ct(NFT.NFT_CT_STATE, bits);
/** The connection's destination was rewritten: it came to a published port. */
export const wasPublished = () => ct(NFT.NFT_CT_STATUS, IPS.IPS_DST_NAT);

export const protocolIs = (protocol: number): Expression[] => [meta(NFT.NFT_META_L4PROTO, REG), equal(u8(protocol))];
export const destinationPortIs = (port: number): Expression[] =>
  [payload(NFT.NFT_PAYLOAD_TRANSPORT_HEADER, PORT_DESTINATION, 2, REG), equal(new Uint8Array([port >> 8, port & 0xff]))];

/** The address is an element of the set. */
export const addressInSet = (end: End, set: string): Expression[] => [ipAddress(end, REG), lookup(set, REG, true)];

/** An interface's name as set keys and the kernel hold it: 16 bytes. */
export function interfaceBytes(name: string): Uint8Array {
  const bytes = new Uint8Array(16);
  bytes.set(Buffer.from(name));
  return bytes;
}

/** `iifname . ip saddr` (or `oifname`) is an element of the set (or is not). Keys: interfaceBytes, then the address. */
export const interfaceAndSourceIn = (side: "in" | "out", set: string, is = true): Expression[] => [
  meta(interfaceKey(side), NFT.NFT_REG_1), // 16 bytes: registers 0 to 3 of four bytes
  ipAddress("saddr", NFT.NFT_REG32_04),
  lookup(set, NFT.NFT_REG_1, is),
];

const lookup = (set: string, register: number, is: boolean): Expression =>
  ({ name: "lookup", data: [attr(NFT.NFTA_LOOKUP_SET, text(set)), attr(NFT.NFTA_LOOKUP_SREG, be32(register)), attr(NFT.NFTA_LOOKUP_FLAGS, be32(is ? 0 : NFT.NFT_LOOKUP_F_INV))] });

/** Rewrites the destination to what the map has for protocol and port. Keys and data: two words each, see `portKey`. */
export const destinationByMap = (map: string): Expression[] => [
  meta(NFT.NFT_META_L4PROTO, NFT.NFT_REG32_00),
  payload(NFT.NFT_PAYLOAD_TRANSPORT_HEADER, PORT_DESTINATION, 2, NFT.NFT_REG32_01),
  { name: "lookup", data: [attr(NFT.NFTA_LOOKUP_SET, text(map)), attr(NFT.NFTA_LOOKUP_SREG, be32(NFT.NFT_REG32_00)), attr(NFT.NFTA_LOOKUP_DREG, be32(NFT.NFT_REG32_00))] },
  nat(NFT.NFT_NAT_DNAT, NFT.NFT_REG32_00, NFT.NFT_REG32_01),
];
/** Protocol and port as two words; address and port are laid out in the same way. */
export const portKey = (protocol: number, port: number): Uint8Array => new Uint8Array([protocol, 0, 0, 0, port >> 8, port & 0xff, 0, 0]);
export const portTarget = (address: number, port: number): Uint8Array => new Uint8Array([...be32(address), port >> 8, port & 0xff, 0, 0]);

const nat = (type: number, address: number, port?: number): Expression => ({
  name: "nat",
  data: [
    attr(NFT.NFTA_NAT_TYPE, be32(type)), attr(NFT.NFTA_NAT_FAMILY, be32(NF.NFPROTO_IPV4)), attr(NFT.NFTA_NAT_REG_ADDR_MIN, be32(address)),
    ...(port === undefined ? [] : [attr(NFT.NFTA_NAT_REG_PROTO_MIN, be32(port))]),
  ],
});
/** Rewrites the source to one address. */
export const sourceTo = (address: number): Expression[] => [
  { name: "immediate", data: [attr(NFT.NFTA_IMMEDIATE_DREG, be32(REG)), nest(NFT.NFTA_IMMEDIATE_DATA, value(be32(address)))] }, nat(NFT.NFT_NAT_SNAT, REG),
];
/** Rewrites the source to the address of the interface that the packet leaves by. */
export const masquerade = (): Expression[] => [{ name: "masq", data: [] }];

const verdict = (code: number): Expression[] => [{
  name: "immediate",
  data: [attr(NFT.NFTA_IMMEDIATE_DREG, be32(NFT.NFT_REG_VERDICT)), nest(NFT.NFTA_IMMEDIATE_DATA, nest(NFT.NFTA_DATA_VERDICT, attr(NFT.NFTA_VERDICT_CODE, be32(code))))],
}];
export const accept = () => verdict(NF.NF_ACCEPT);
/** Drops and counts, so that `nft list table ip dormouse` shows what was dropped. */
export const drop = () => [counter(), ...verdict(NF.NF_DROP)];
const ICMP_PORT_UNREACH = 3, ICMP_PKT_FILTERED = 13; // linux/icmp.h: the latter is "administratively prohibited"
const rejectWith = (type: number, code: number): Expression[] =>
  [counter(), { name: "reject", data: [attr(NFT.NFTA_REJECT_TYPE, be32(type)), attr(NFT.NFTA_REJECT_ICMP_CODE, u8(code))] }];
/** Answers with ICMP "administratively prohibited", so that the sender fails at once; counts. */
export const reject = (): Expression[] => rejectWith(NFT.NFT_REJECT_ICMP_UNREACH, ICMP_PKT_FILTERED);
/** Answer as a host does whose port is closed; count. */
export const refuseTcp = (): Expression[] => [...protocolIs(IPPROTO_TCP), ...rejectWith(NFT.NFT_REJECT_TCP_RST, 0)];
export const refuseUdp = (): Expression[] => [...protocolIs(IPPROTO_UDP), ...rejectWith(NFT.NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH)];
const IPPROTO_TCP = 6, IPPROTO_UDP = 17;
const counter = (): Expression => ({ name: "counter", data: [] });
