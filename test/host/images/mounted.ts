// What Linux itself makes of an image: checked by fsck.erofs, mounted in a mount namespace of its own, and listed.
import { join } from "node:path";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { convert, CONVERT_LIMITS, type ConvertJob, type ConvertResult } from "../../../src/host/images/convert.ts";
import type { Listed } from "./list-tree.ts";

const lister = join(import.meta.dir, "list-tree.ts");

/** `erofs` as Linux sees it. */
export async function listImage(erofs: string): Promise<Record<string, Listed>> {
  await command(["fsck.erofs", erofs]);
  using point = new TempDir("mount");
  const script = `mount -t erofs -o loop,ro "$1" "$2" && exec "$3" "$4" "$2"`;
  return JSON.parse(await command(["unshare", "-m", "sh", "-ec", script, "sh", erofs, point.path, process.execPath, lister])) as Record<string, Listed>;
}

/** `folder` as Linux sees it, in a process of its own as above. */
export async function listFolder(folder: string): Promise<Record<string, Listed>> {
  return JSON.parse(await command([process.execPath, lister, folder])) as Record<string, Listed>;
}

export const sha256 = (data: Uint8Array): string => `sha256:${new Bun.CryptoHasher("sha256").update(data).digest("hex")}`;

/** Converts tar files, base to top, with limits that a test may tighten. */
export function convertTars(paths: readonly string[], output: string, limits: Partial<ConvertJob["limits"]> = {}): Promise<ConvertResult> {
  return convert({ layers: paths.map((path) => ({ path, diffId: null })), output, uuidSeed: "00112233445566778899aabbccddeeff", label: "test", limits: { ...CONVERT_LIMITS, ...limits } });
}
