// What a head looks like when it goes on: hop-by-hop fields end here (RFC 9110 7.6.1), framing is ours, and the target is told
// who asked (X-Forwarded-*).
import type { Framing } from "./framing.ts";
import { type Field, type RequestHead, type ResponseHead, tokensOf } from "./head.ts";

/** Of the one connection that they came on; or written anew by us. */
const HOP_BY_HOP = new Set([
  "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "transfer-encoding", "content-length", "upgrade", "http2-settings", "host",
]);
/** What a caller may not say of itself, unless it is a proxy on this machine. */
const FORWARDED = new Set(["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]);
/** Trailers come when these have been acted upon already (RFC 9110 6.5.1). */
const NO_TRAILER = /^(?:host|authorization|cookie|set-cookie|cache-control|expect|max-forwards|range|content-.*|trailer|x-forwarded-.*|forwarded|date|location|vary|age|expires|retry-after|www-authenticate)$/;

export interface Caller { readonly address: string; readonly host: string }

const isLoopback = (address: string): boolean => address.startsWith("127.") || address === "::1" || address.startsWith("::ffff:127.");
const plainAddress = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, "");

/** The fields that go on, those left out that Connection names or `without` has. */
function endToEnd(fields: readonly Field[], without: ReadonlySet<string>): Field[] {
  const named = new Set(tokensOf(fields, "connection"));
  return fields.filter(({ key }) => !HOP_BY_HOP.has(key) && !named.has(key) && !without.has(key));
}

export interface Onward {
  readonly caller: Caller;
  readonly framing: Framing;
  /** What it asks to change the connection to, or null. */
  readonly upgrade: string | null;
  /** A field that is for us alone, in small letters. */
  readonly secret: string | null;
}

export function requestHead({ method, fields, minor }: RequestHead, target: string, { caller, framing, upgrade, secret }: Onward): string {
  const without = new Set(isLoopback(caller.address) ? ["x-forwarded-for"] : FORWARDED);
  if (secret !== null) without.add(secret);
  // HTTP/1.0 knows no 100 (Continue), and its sender does not wait for one.
  if (minor === 0) without.add("expect");
  const lines = [`${method} ${target} HTTP/1.1`, `Host: ${caller.host}`];
  const kept = endToEnd(fields, without);
  for (const { name, value } of kept) lines.push(`${name}: ${value}`);
  lines.push(...forwarded(fields, kept, caller), ...framingLines(framing));
  const trailers = tokensOf(fields, "te").some((token) => /^trailers(?:;|$)/.test(token));
  if (upgrade !== null) lines.push("Connection: Upgrade", `Upgrade: ${upgrade}`);
  else if (trailers) lines.push("Connection: TE", "TE: trailers");
  return `${lines.join("\r\n")}\r\n\r\n`;
}

function forwarded(fields: readonly Field[], kept: readonly Field[], { address, host }: Caller): string[] {
  const before = isLoopback(address) ? fields.filter(({ key }) => key === "x-forwarded-for").map(({ value }) => value) : [];
  const lines = [`X-Forwarded-For: ${[...before, plainAddress(address)].join(", ")}`];
  if (!kept.some(({ key }) => key === "x-forwarded-proto")) lines.push("X-Forwarded-Proto: http");
  if (!kept.some(({ key }) => key === "x-forwarded-host")) lines.push(`X-Forwarded-Host: ${host}`);
  return lines;
}

function framingLines(framing: Framing): string[] {
  if (framing.kind === "length") return [`Content-Length: ${framing.length}`];
  return framing.kind === "chunked" ? ["Transfer-Encoding: chunked"] : [];
}

/** `framing` is how the body goes to the client; `connection` what is said of its connection. `length`: of a body that is not sent (HEAD, 304). */
export function responseHead({ status, reason, fields }: ResponseHead, framing: Framing, connection: string | null, extra: readonly string[] = []): string {
  const lines = [`HTTP/1.1 ${status} ${reason}`];
  for (const { name, value } of endToEnd(fields, new Set())) lines.push(`${name}: ${value}`);
  lines.push(...framingLines(framing), ...extra);
  if (connection !== null) lines.push(`Connection: ${connection}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}

export const trailersOnward = (trailers: readonly Field[], secret: string | null): Field[] =>
  trailers.filter(({ key }) => !HOP_BY_HOP.has(key) && !NO_TRAILER.test(key) && key !== secret);
