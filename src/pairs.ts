// The encoding of everything structured between host and guest: `key NUL value NUL …` in UTF-8; keys repeat for lists.

export type Pair = readonly [key: string, value: string];

/** Throws where a key or value holds a NUL: neither an argument nor an environment variable can. */
export function encodePairs(pairs: readonly Pair[]): Uint8Array {
  for (const [key, value] of pairs) if (key.includes("\0") || value.includes("\0")) throw new Error(`Cannot encode ${JSON.stringify(key)}: it holds a NUL`);
  return Buffer.from(pairs.map(([key, value]) => `${key}\0${value}\0`).join(""));
}

/** Null where the bytes don't end with a whole pair. Bytes that aren't UTF-8 become U+FFFD. */
export function decodePairs(bytes: Uint8Array): Pair[] | null {
  if (bytes.length === 0) return [];
  const parts = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8").split("\0");
  if (parts.pop() !== "" || parts.length % 2 !== 0) return null;
  return Array.from({ length: parts.length / 2 }, (_, i) => [parts[i * 2]!, parts[i * 2 + 1]!]);
}

/** The last value of a key. */
export const pairValue = (pairs: readonly Pair[], key: string): string | undefined => pairs.findLast(([k]) => k === key)?.[1];
