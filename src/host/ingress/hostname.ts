// Host names of rules: literal ones, and patterns of which some labels are captures (`{instance}.example.com`).
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";

/** RFC 1035 2.3.4: octets of a name and of a label. */
const NAME_MAX = 253;
const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const CAPTURE = /^\{([a-z][a-z0-9_-]{0,62})\}$/i;

const captureOf = (label: string): string | null => CAPTURE.exec(label)?.[1] ?? null;

/** The capture that `text` is as a whole (`{instance}`), or null. */
export const asCapture = captureOf;
export const capturesOf = (hostname: string): string[] => hostname.split(".").flatMap((label) => captureOf(label) ?? []);
export const isPattern = (hostname: string): boolean => hostname.includes("{");

/** Small letters except in the names of captures; `request.bad` says what is wrong, `field` with what. */
export function checkHostname(text: string, field: string): Res<string> {
  const bad = (why: string) => fail("request.bad", `Cannot accept field ${field}: ${why}.`, { details: { field } });
  if (text.includes("*")) return bad("a wildcard is written as a capture, like {instance}.example.com");
  if (/[:/]/.test(text)) return bad("it must be a host name alone, without scheme, port or path");
  const labels = text.split(".").map((label) => (captureOf(label) === null ? label.toLowerCase() : label));
  if (text.length > NAME_MAX) return bad(`a host name has at most ${NAME_MAX} characters`);
  for (const label of labels) {
    if (captureOf(label) !== null || LABEL.test(label)) continue;
    if (/[{}]/.test(label)) return bad("a capture must be a whole label with a name of letters, digits, - and _, like {instance}.example.com");
    return bad("it is no host name: labels of 1 to 63 letters, digits and inner dashes, with dots between");
  }
  const captures = labels.flatMap((label) => captureOf(label) ?? []);
  if (new Set(captures).size < captures.length) return bad("it has a capture twice");
  return ok(labels.join("."));
}

/** What a pattern matches, whatever its captures are called. */
export const shapeOf = (hostname: string): string => hostname.split(".").map((label) => (captureOf(label) === null ? label : "{}")).join(".");

/** The name that a Host field or an authority names: without port, final dot and case; null where it is none. */
export function hostOf(authority: string): string | null {
  const match = /^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?$/.exec(authority);
  return match === null ? null : match[1]!.toLowerCase().replace(/\.$/, "");
}

/** The captures' values where the whole name matches, label by label. */
export function matchHost(hostname: string, labels: readonly string[]): Record<string, string> | null {
  const pattern = hostname.split(".");
  if (pattern.length !== labels.length) return null;
  const values: Record<string, string> = {};
  for (let i = 0; i < pattern.length; i++) {
    const name = captureOf(pattern[i]!), label = labels[i]!;
    if (name !== null && LABEL.test(label)) values[name] = label;
    else if (pattern[i] !== label) return null;
  }
  return values;
}
