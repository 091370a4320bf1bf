// Archives with random damage: whatever comes, the outcome is a sound image or an error that names the archive's fault.
import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { DormouseError } from "../../../src/errors.ts";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { convertTars } from "./mounted.ts";
import { dir, file, hardlink, symlink, tar } from "./tar-builder.ts";

const ROUNDS = Number(process.env["DORMOUSE_TEST_ROUNDS"] ?? 400);
const CHECK_EVERY = 20;
const BLOCK = 512;

/** A generator with a seed, so that a failure can be had again. */
function generator(seed: number): (below: number) => number {
  let x = seed;
  return (below) => ((x = (Math.imul(x, 1103515245) + 12345) & 0x7fffffff) >>> 8) % below;
}

async function seeds(temp: TempDir): Promise<Buffer[]> {
  await command(["sh", "-ec", `mkdir d; echo hi > d/a; ln d/a d/b; ln -s a d/l; truncate -s 1M s; echo x | dd of=s bs=1 seek=500000 conv=notrunc status=none; touch ${"n".repeat(150)}
    tar --format=gnu -S -cf gnu.tar d s n*; tar --format=posix -S -cf pax.tar d s n*`], { cwd: temp.path });
  const read = async (name: string): Promise<Buffer> => Buffer.from(await Bun.file(temp.join(name)).bytes());
  const xattr = { pax: { "SCHILY.xattr.user.a": "value" } };
  const handmade = tar([dir("a"), file("a/x", "y".repeat(5000), xattr), hardlink("a/h", "a/x"), symlink("l", "a"), file("l/z", "z"), file(".wh.a"), file("a/.wh..wh..opq")]);
  return [await read("gnu.tar"), await read("pax.tar"), handmade];
}

function damage(bytes: Buffer, random: (below: number) => number): void {
  for (let n = random(6) + 1; n > 0; n--) {
    const at = random(bytes.length);
    const block = random(bytes.length) & -BLOCK;
    switch (random(4)) {
      case 0: bytes[at] = random(256); break;
      case 1: bytes[at] = 0x30 + random(10); break;
      case 2: bytes[at]! ^= 1 << random(8); break;
      default: bytes.copy(bytes, at & -BLOCK, block, block + BLOCK);
    }
  }
}

/** Makes the checksums of headers right again, so that the damage gets past them. */
function repairChecksums(bytes: Buffer): void {
  for (let at = 0; at + BLOCK <= bytes.length; at += BLOCK) {
    if (bytes.toString("latin1", at + 257, at + 262) !== "ustar") continue;
    bytes.write("        ", at + 148);
    const sum = bytes.subarray(at, at + BLOCK).reduce((total, byte) => total + byte, 0);
    bytes.write(`${sum.toString(8).padStart(6, "0")}\0 `, at + 148);
  }
}

test("damaged archives become sound images or clear errors", async () => {
  using temp = new TempDir("mutations");
  const random = generator(1);
  const all = await seeds(temp);
  const counts = { image: 0, refused: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    const bytes = Buffer.from(all[random(all.length)]!);
    damage(bytes, random);
    if (random(4) > 0) repairChecksums(bytes);
    const cut = random(10) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes;
    writeFileSync(temp.join("layer"), random(5) === 0 ? gzipSync(cut) : cut);
    const outcome = await convertTars([temp.join("layer")], temp.join("image"), { maxBytes: 64 << 20, ratioFreeBytes: 64 << 20 }).then(() => null, (error: unknown) => error);
    if (outcome === null) {
      counts.image++;
      if (round % CHECK_EVERY === 0) await command(["fsck.erofs", temp.join("image")]);
      continue;
    }
    counts.refused++;
    // A fault of ours would be wrapped too: its cause tells.
    const cause = outcome instanceof DormouseError ? (outcome.cause as Error | undefined) : outcome;
    expect({ round, cause: String(cause), fault: /^(TarError|LimitError|CompressionError)$/.test((cause as Error).name) }).toMatchObject({ fault: true });
  }
  expect(Math.min(counts.image, counts.refused)).toBeGreaterThan(ROUNDS / 10);
}, 60_000);
