// Ids, as the contract's server makes them (cuid2): 24 small letters and digits, of which the first is a letter. They are the kernel's
// random numbers and nothing else. (The library for them hashes what it draws by SHA-3 in JavaScript: 0.4 to 1 ms an id, of which a fork
// needs several.)
import { randomBytes } from "../ffi/random.ts";

const LETTERS = "abcdefghijklmnopqrstuvwxyz", SIGNS = `${LETTERS}0123456789`;
const LENGTH = 24;

/** 123 random bits: no two calls anywhere draw the same. */
export function createId(): string {
  let id = "";
  while (id.length < LENGTH) {
    for (const byte of randomBytes(2 * LENGTH)) {
      const signs = id === "" ? LETTERS : SIGNS;
      // The rest of 256 would make the first signs likelier than others.
      if (byte < 256 - (256 % signs.length)) id += signs[byte % signs.length];
      if (id.length === LENGTH) break;
    }
  }
  return id;
}
