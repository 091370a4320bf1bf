// Images as a daemon has them once it has pulled them: the beginning of a data folder, made by its own code outside of the testbed, where the
// conversion takes a second and not half a minute. Tests of pulling do without it.
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { imageMigrations, openImages } from "../../src/host/images/images.ts";
import { openStore } from "../../src/host/store/store.ts";
import { image } from "./images.ts";
import { cacheFolder, repo, TempDir } from "./paths.ts";
import type { ImageName } from "./recipes.ts";
import { trashIn } from "./trash.ts";

/** What sites are started with. */
export const siteImages = [["soak"], ["nginx"], ["busybox"], ["soak", "busybox"]] as const satisfies readonly (readonly ImageName[])[];
export type SiteImages = (typeof siteImages)[number];

/** The name in the daemon of an image that came without a registry. */
export const localName = (name: ImageName): string => `local/${name}`;

/** Of all that decides what comes out: the images, and the code that converts and records them. */
async function contentHash(names: SiteImages): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for (const name of names) hash.update(basename((await image(name)).folder));
  const sources = [...new Bun.Glob("src/host/{images,store}/**/*.ts").scanSync({ cwd: repo })].sort();
  for (const path of sources) hash.update(path).update(await readFile(join(repo, path)));
  return hash.digest("hex").slice(0, 16);
}

/** The folder in the cache; made when it is not there. To be copied: a daemon writes to its own. */
export async function convertedImages(names: SiteImages): Promise<string> {
  const parent = join(cacheFolder, "converted"), folder = join(parent, `${names.join("+")}-${await contentHash(names)}`);
  if (existsSync(folder)) return folder;
  await mkdir(parent, { recursive: true });
  using temp = new TempDir("converted", parent);
  const made = temp.join("data");
  await convert(names, made);
  // Another process may have been faster: its folder is as good.
  await rename(made, folder).catch((error: unknown) => { if (!existsSync(folder)) throw error; });
  return folder;
}

async function convert(names: SiteImages, folder: string): Promise<void> {
  const store = openStore(join(folder, "dormouse.db"), imageMigrations)._unsafeUnwrap();
  const images = openImages({ db: store.db, dir: join(folder, "images"), trash: trashIn(folder), userOf: () => null })._unsafeUnwrap();
  for (const name of names) {
    (await images.load((await image(name)).folder, localName(name)))._unsafeUnwrap();
    const { status, error } = (await images.settled(localName(name)))._unsafeUnwrap();
    if (status !== "ready") throw new Error(`Cannot convert the image ${name}: ${error}`);
  }
  await images.close();
  store.close();
  await rm(join(folder, "dormouse.db.lock"), { force: true });
}
