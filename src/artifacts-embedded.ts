// The guest kernel and initramfs as files of this process. build.ts replaces this module with one that embeds them,
// compressed; sources that run as they are take them from where scripts/kernel and scripts/guest have built them.

export interface EmbeddedFile {
  /** Opens with Bun.file (not with open(2): an embedded file has no place in the host's file system). */
  readonly path: string;
  /** Of the uncompressed content. */
  readonly sha256: string;
  readonly compression: "zstd" | "none";
}
export interface EmbeddedArtifacts { readonly kernel: EmbeddedFile; readonly initramfs: EmbeddedFile }

async function built(script: string, ...args: string[]): Promise<EmbeddedFile> {
  const path = new URL(`../scripts/${script}`, import.meta.url).pathname;
  const child = Bun.spawn([path, ...args], { stdout: "pipe", stderr: "inherit" });
  const output = (await child.stdout.text()).trim();
  if ((await child.exited) !== 0) throw new Error(`scripts/${[script, ...args].join(" ")} failed`);
  const hash = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(output).stream()) hash.update(chunk);
  return { path: output, sha256: hash.digest("hex"), compression: "none" };
}

/** Rejects where a script fails; compiled, it never does. */
export const embeddedArtifacts = async (): Promise<EmbeddedArtifacts> => ({
  kernel: await built("kernel", "guest"),
  initramfs: await built("guest"),
});
