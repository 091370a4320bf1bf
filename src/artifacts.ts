// The guest kernel and initramfs in the data folder: `<data>/artifacts/{vmlinux,initramfs}-<first 16 of sha256>`.
// A VMM gets them as descriptors, and the kernel of the host maps no file that lives inside an executable.
import { mkdir, open, readdir, rename, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { createZstdDecompress } from "node:zlib";
import { ResultAsync } from "neverthrow";
import { DormouseError, wrap, type AsyncRes } from "./errors.ts";
import { embeddedArtifacts, type EmbeddedFile } from "./artifacts-embedded.ts";

export interface Artifacts { readonly kernelPath: string; readonly initramfsPath: string }

const NAMES = /^(vmlinux|initramfs)-[0-9a-f]{16}(\.part)?$/;

/**
 * Unpacks what is not there yet into `dir` (made if missing) and removes what other versions left there: a running
 * guest has read its kernel already. `host.storage` where the folder can't be written or a file doesn't match its hash.
 */
export function unpackArtifacts(dir: string): AsyncRes<Artifacts> {
  return ResultAsync.fromPromise(unpackAll(dir), (cause) => wrap("host.storage", `Cannot unpack the guest kernel into ${dir}`, cause));
}

async function unpackAll(dir: string): Promise<Artifacts> {
  const { kernel, initramfs } = await embeddedArtifacts();
  await mkdir(dir, { recursive: true, mode: 0o755 });
  const kernelPath = await unpack(kernel, dir, "vmlinux");
  const initramfsPath = await unpack(initramfs, dir, "initramfs");
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    if (NAMES.test(name) && path !== kernelPath && path !== initramfsPath) await unlink(path);
  }
  return { kernelPath, initramfsPath };
}

async function unpack(file: EmbeddedFile, dir: string, name: string): Promise<string> {
  const path = join(dir, `${name}-${file.sha256.slice(0, 16)}`);
  // Renamed only when whole and on disk, so a name that is there is right.
  if (await stat(path).then(() => true, () => false)) return path;
  const part = `${path}.part`;
  const out = await open(part, "w", 0o644);
  try {
    const hash = new Bun.CryptoHasher("sha256");
    for await (const chunk of contentOf(file)) {
      hash.update(chunk);
      await out.writeFile(chunk);
    }
    if (hash.digest("hex") !== file.sha256)
      throw new DormouseError("host.storage", `Cannot unpack ${name} into ${dir}: its content differs from what was built; the executable is damaged, install it again`);
    await out.sync();
  } finally {
    await out.close();
  }
  await rename(part, path);
  return path;
}

/** Streamed, so that the daemon's memory never holds the whole kernel. */
function contentOf(file: EmbeddedFile): AsyncIterable<Uint8Array> {
  const stream = Bun.file(file.path).stream();
  if (file.compression === "none") return stream;
  return Readable.from(stream).pipe(createZstdDecompress());
}
