// Netlink messages and attributes as bytes (linux/netlink.h). Numbers are in host order unless a name says `be`.
import { NETLINK, nlattr, nlmsghdr } from "../abi/netlink.ts";

/** One message without its header's length, sequence and sender, which the socket fills in. */
export interface Message {
  readonly type: number;
  readonly flags: number;
  /** The family's own header, then attributes. */
  readonly body: Uint8Array;
}

export const message = (type: number, flags: number, ...parts: readonly Uint8Array[]): Message => ({ type, flags, body: concat(parts) });

function scalar(size: number, set: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size);
  set(new DataView(bytes.buffer));
  return bytes;
}
export const u8 = (value: number): Uint8Array => scalar(1, (v) => v.setUint8(0, value));
export const u16 = (value: number): Uint8Array => scalar(2, (v) => v.setUint16(0, value, true));
export const be16 = (value: number): Uint8Array => scalar(2, (v) => v.setUint16(0, value));
export const u32 = (value: number): Uint8Array => scalar(4, (v) => v.setUint32(0, value, true));
export const be32 = (value: number): Uint8Array => scalar(4, (v) => v.setUint32(0, value));
/** A string with its NUL. */
export const text = (value: string): Uint8Array => Buffer.from(`${value}\0`);

export const align = (length: number): number => (length + NETLINK.NLA_ALIGNTO - 1) & -NETLINK.NLA_ALIGNTO;

/** The parts one after another, each padded to four bytes. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + align(part.length), 0));
  let end = 0;
  for (const part of parts) {
    out.set(part, end);
    end += align(part.length);
  }
  return out;
}

const MAX_ATTRIBUTE = 0xffff; // nla_len is 16 bits wide

/** One attribute; the padding behind it is not part of its length. */
export function attr(type: number, value: Uint8Array): Uint8Array {
  const length = nlattr.size + value.length;
  if (length > MAX_ATTRIBUTE) throw new RangeError(`Cannot put ${value.length} bytes into one netlink attribute`);
  const bytes = new Uint8Array(align(length));
  const view = new DataView(bytes.buffer);
  view.setUint16(nlattr.at.nla_len, length, true);
  view.setUint16(nlattr.at.nla_type, type, true);
  bytes.set(value, nlattr.size);
  return bytes;
}

export const nest = (type: number, ...parts: readonly Uint8Array[]): Uint8Array => attr(type | NETLINK.NLA_F_NESTED, concat(parts));

const TYPE_MASK = ~(NETLINK.NLA_F_NESTED | NETLINK.NLA_F_NET_BYTEORDER);

/** Attribute type and value, in order; a malformed tail is left out. Values are views into `bytes`. */
export function attributeList(bytes: Uint8Array): [type: number, value: Uint8Array][] {
  const view = viewOf(bytes);
  const found: [number, Uint8Array][] = [];
  for (let at = 0; at + nlattr.size <= bytes.length; ) {
    const length = view.getUint16(at + nlattr.at.nla_len, true);
    if (length < nlattr.size || at + length > bytes.length) break;
    found.push([view.getUint16(at + nlattr.at.nla_type, true) & TYPE_MASK, bytes.subarray(at + nlattr.size, at + length)]);
    at += align(length);
  }
  return found;
}

/** The last attribute of each type. */
export const attributes = (bytes: Uint8Array): Map<number, Uint8Array> => new Map(attributeList(bytes));

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A number attribute, or `missing` where it is absent or too short. */
export const readU32 = (value: Uint8Array | undefined, missing = 0): number =>
  value !== undefined && value.length >= 4 ? viewOf(value).getUint32(0, true) : missing;
export const readBe32 = (value: Uint8Array | undefined, missing = 0): number =>
  value !== undefined && value.length >= 4 ? viewOf(value).getUint32(0) : missing;
/** A string attribute up to its NUL; empty where it is absent. */
export const readText = (value: Uint8Array | undefined): string => {
  if (value === undefined) return "";
  const end = value.indexOf(0);
  return Buffer.from(end < 0 ? value : value.subarray(0, end)).toString();
};

/** The messages as one packet, sequence numbers from `firstSeq` on. */
export function encode(messages: readonly Message[], firstSeq: number): Uint8Array {
  const total = messages.reduce((sum, m) => sum + nlmsghdr.size + align(m.body.length), 0);
  const packet = new Uint8Array(total);
  const view = new DataView(packet.buffer);
  let at = 0;
  messages.forEach((m, i) => {
    view.setUint32(at + nlmsghdr.at.nlmsg_len, nlmsghdr.size + m.body.length, true);
    view.setUint16(at + nlmsghdr.at.nlmsg_type, m.type, true);
    view.setUint16(at + nlmsghdr.at.nlmsg_flags, m.flags | NETLINK.NLM_F_REQUEST, true);
    view.setUint32(at + nlmsghdr.at.nlmsg_seq, (firstSeq + i) >>> 0, true);
    packet.set(m.body, at + nlmsghdr.size);
    at += nlmsghdr.size + align(m.body.length);
  });
  return packet;
}

export interface Received { readonly type: number; readonly flags: number; readonly seq: number; readonly body: Uint8Array }

/** The messages of a packet that was received. */
export function decode(packet: Uint8Array): Received[] {
  const view = viewOf(packet);
  const found: Received[] = [];
  for (let at = 0; at + nlmsghdr.size <= packet.length; ) {
    const length = view.getUint32(at + nlmsghdr.at.nlmsg_len, true);
    if (length < nlmsghdr.size || at + length > packet.length) break;
    found.push({
      type: view.getUint16(at + nlmsghdr.at.nlmsg_type, true),
      flags: view.getUint16(at + nlmsghdr.at.nlmsg_flags, true),
      seq: view.getUint32(at + nlmsghdr.at.nlmsg_seq, true),
      body: packet.subarray(at + nlmsghdr.size, at + length),
    });
    at += align(length);
  }
  return found;
}
