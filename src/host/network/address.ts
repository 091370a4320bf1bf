// IPv4 addresses and ranges as 32-bit numbers, and what is derived from a guest's place in its range.
import { fail, type Res } from "../../errors.ts";
import { ok } from "neverthrow";

export interface Range {
  readonly base: number;
  readonly prefix: number;
  /** As it was written: `10.88.0.0/16`. */
  readonly text: string;
  /** The first address: the host's, on `lo`. */
  readonly gateway: number;
}

/** All TAPs begin with it, and nothing else may: the rules tell guests' links by this prefix. */
export const TAP_PREFIX = "dormouse-";
/**
 * The host's end of every TAP. One for all, or frames that a fork sends to its parent's gateway would be dropped;
 * locally administered, and no guest's (those end with their address, and 0.0.0.1 is none).
 */
export const HOST_MAC = "02:64:00:00:00:01";

/** At most 24 bits of host part, so that a TAP's name fits into 15 bytes; at least two guests. */
const WIDEST = 8, NARROWEST = 29;

export function parseAddress(text: string): number | null {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((p) => /^(0|[1-9]\d{0,2})$/.test(p) && Number(p) < 256)) return null;
  return parts.reduce((sum, p) => sum * 256 + Number(p), 0);
}

export const formatAddress = (address: number): string => [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join(".");

export const maskOf = (prefix: number): number => (prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0);
export const contains = (base: number, prefix: number, address: number): boolean => ((address & maskOf(prefix)) >>> 0) === base;
/** Two prefixes overlap where the wider one contains the other. */
export const overlap = (a: { base: number; prefix: number }, b: { base: number; prefix: number }): boolean => {
  const mask = maskOf(Math.min(a.prefix, b.prefix));
  return ((a.base & mask) >>> 0) === ((b.base & mask) >>> 0);
};

/** Number of addresses of a range. */
export const sizeOf = (range: { prefix: number }): number => 2 ** (32 - range.prefix);

/** A range for guests, from CIDR notation. */
export function parseRange(text: string): Res<Range> {
  const [address = "", length = "", ...rest] = text.split("/");
  const base = parseAddress(address);
  if (base === null || !/^\d{1,2}$/.test(length) || rest.length > 0)
    return fail("request.bad", `Cannot use ${JSON.stringify(text)} as the guests' range: it is not an IPv4 range like 10.88.0.0/16`);
  const prefix = Number(length);
  if (prefix < WIDEST || prefix > NARROWEST)
    return fail("request.bad", `Cannot use ${text} as the guests' range: its prefix must be between /${WIDEST} and /${NARROWEST}`);
  const network = (base & maskOf(prefix)) >>> 0;
  if (network !== base) return fail("request.bad", `Cannot use ${text} as the guests' range: did you mean ${formatAddress(network)}/${prefix}?`);
  const first = base >>> 24;
  if (first === 0 || first === 127 || first >= 224)
    return fail("request.bad", `Cannot use ${text} as the guests' range: these addresses are reserved; use a private range like 10.88.0.0/16`);
  return ok({ base, prefix, text, gateway: base + 1 });
}

/** `dormouse-` and the address's offset in its range, in hexadecimal: unique as the address is, at most 15 bytes. */
export const tapOf = (range: Range, address: number): string => TAP_PREFIX + (address - range.base).toString(16);

/** A locally administered MAC that ends with the address. */
export const macOf = (address: number): string =>
  ["02", "64", ...[24, 16, 8, 0].map((shift) => ((address >>> shift) & 0xff).toString(16).padStart(2, "0"))].join(":");

export const macBytes = (mac: string): Uint8Array => new Uint8Array(mac.split(":").map((part) => parseInt(part, 16)));
