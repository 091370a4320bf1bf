// What the benches boot: the guest kernel, an initramfs with BusyBox and init.sh, and disks of images. All cached.
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { cpio } from "../scripts/lib/testbed/cpio.ts";
import { command } from "../test/support/command.ts";
import { image } from "../test/support/images.ts";
import type { ImageName } from "../test/support/recipes.ts";
import { cacheFolder, repo, TempDir } from "../test/support/paths.ts";
import { say } from "./metric.ts";

/** Path of the guest kernel (vmlinux); builds it where it is not in the cache. */
export const guestKernel = async (): Promise<string> => (await command([join(repo, "scripts/kernel"), "guest"])).trim();

/** An initramfs in `dir`. */
export function benchInitrd(dir: string): string {
  const path = join(dir, "initrd");
  const file = (name: string, from: string) => ({ path: name, mode: 0o100755, data: readFileSync(from) });
  const folders = ["bin", "dev", "proc", "sys", "root"].map((name) => ({ path: name, mode: 0o040755 }));
  writeFileSync(path, cpio([...folders, file("bin/busybox", "/bin/busybox"), file("init", join(import.meta.dir, "init.sh"))]));
  return path;
}

const ROOTFS_SIZE = "768M";

/** An ext4 image of an image's file system, with BusyBox; read-only for guests. Builds it where it is not in the cache. */
export async function imageDisk(name: ImageName): Promise<string> {
  const layout = await image(name, say);
  const { digest } = await layout.manifest();
  const path = join(cacheFolder, "bench", `rootfs-${digest.slice("sha256:".length, 23)}.ext4`);
  if (existsSync(path)) return path;
  say(`making a disk of the image ${name}`);
  mkdirSync(join(cacheFolder, "bench"), { recursive: true });
  using temp = new TempDir("rootfs", join(cacheFolder, "bench"));
  const root = temp.join("root");
  await mkdir(root);
  const manifest: { layers: { digest: string }[] } = JSON.parse(await readFile(layout.blobPath(digest), "utf8"));
  for (const layer of manifest.layers) await command(["tar", "-xzf", layout.blobPath(layer.digest), "-C", root, "--numeric-owner"]);
  await command(["cp", "/bin/busybox", join(root, "usr/bin/busybox")]);
  await command(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", root, temp.join("image"), ROOTFS_SIZE]);
  renameSync(temp.join("image"), path);
  return path;
}

/** The disk with fio and iperf3. */
export const benchRootfs = (): Promise<string> => imageDisk("bench");
