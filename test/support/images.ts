// The images that tests, the demo and the bench run: real servers, assembled from Debian packages, cached as OCI layouts.
// A recipe's hash names its folder in the cache: what is built once is used without network or root from then on.
import { existsSync } from "node:fs";
import { chmod, copyFile, link, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fetchPackages, finishBase, unpackPackages } from "./debian.ts";
import { command } from "./command.ts";
import { OciLayout, type Layer } from "./oci.ts";
import { cacheFolder, TempDir } from "./paths.ts";
import { recipes, type Entry, type ImageName, type Recipe } from "./recipes.ts";

/** Raised whenever the way in which layers are put together changes. */
const ASSEMBLER = 1;

const recipe = (name: ImageName): Recipe => recipes[name];
const allPackages = (name: ImageName): string[] => {
  const { base, packages = [] } = recipe(name);
  return [...(base ? allPackages(base) : []), ...packages];
};
const recipeChain = (name: ImageName): Recipe[] => {
  const own = recipe(name);
  return own.base ? [...recipeChain(own.base), own] : [own];
};

const folderOf = (name: ImageName): string => {
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify([ASSEMBLER, recipeChain(name)])).digest("hex").slice(0, 16);
  return join(cacheFolder, "images", `${name}-${hash}`);
};

const flights = new Map<ImageName, Promise<OciLayout>>();

/** The image as an OCI layout in the cache; built (seconds, as root, needs Debian's mirrors) when it is not there. `say`: progress. */
export function image(name: ImageName, say: (text: string) => void = () => {}): Promise<OciLayout> {
  const flight = flights.get(name) ?? build(name, say);
  flights.set(name, flight);
  return flight;
}

async function build(name: ImageName, say: (text: string) => void): Promise<OciLayout> {
  const folder = folderOf(name);
  if (existsSync(folder)) return OciLayout.open(folder);
  const own = recipe(name);
  const base = own.base ? await image(own.base, say) : null;
  say(`building the image ${name}`);
  await mkdir(join(cacheFolder, "images"), { recursive: true });
  using temp = new TempDir("image", join(cacheFolder, "images"));
  const layout = await OciLayout.create(temp.join("layout"));
  const layers = [...(base ? await baseLayers(base, layout) : []), ...(await ownLayers(name, layout, temp))];
  await layout.finish(layers, own.config, own.dialect);
  // Another process may have been faster: its image is as good.
  await rename(layout.folder, folder).catch((error: unknown) => { if (!existsSync(folder)) throw error; });
  return OciLayout.open(folder);
}

async function baseLayers(base: OciLayout, layout: OciLayout): Promise<Layer[]> {
  const manifest: { layers: Layer["descriptor"][]; config: { digest: string } } = JSON.parse(await readFile(base.blobPath((await base.manifest()).digest), "utf8"));
  const config: { rootfs: { diff_ids: string[] } } = JSON.parse(await readFile(base.blobPath(manifest.config.digest), "utf8"));
  for (const { digest } of manifest.layers) await copyFile(base.blobPath(digest), layout.blobPath(digest));
  return manifest.layers.map((descriptor, i) => ({ descriptor, diffId: config.rootfs.diff_ids[i]! }));
}

async function ownLayers(name: ImageName, layout: OciLayout, temp: TempDir): Promise<Layer[]> {
  const { base, packages, layers = [], compression = ["gzip"], dialect, accounts } = recipe(name);
  const files = layers.length > 0 ? layers : [{}];
  const made: Layer[] = [];
  for (const [i, entries] of files.entries()) {
    const root = temp.join(`layer-${i}`);
    await mkdir(root);
    if (i === 0 && packages) await unpackPackages(await fetchPackages(packages, base ? allPackages(base) : []), root);
    if (i === 0 && name === "busybox") await linkApplets(root);
    if (i === 0 && base === undefined && name !== "busybox") await finishBase(root);
    if (i === 0 && accounts) await addAccounts(root, accounts);
    for (const [path, entry] of Object.entries(entries)) await writeEntry(root, path, entry);
    made.push(await layout.addFolder(root, compression[i % compression.length], dialect));
    await rm(root, { recursive: true });
  }
  return made;
}

async function linkApplets(root: string): Promise<void> {
  const applets = (await command([join(root, "bin/busybox"), "--list"])).trim().split("\n");
  for (const applet of applets) if (applet !== "busybox") await symlink("busybox", join(root, "usr/bin", applet));
}

/** The base's accounts with more at the end: as `adduser` would leave them. */
async function addAccounts(root: string, { passwd, group }: { passwd: string; group: string }): Promise<void> {
  await mkdir(join(root, "etc"), { recursive: true });
  for (const [file, lines] of [["passwd", passwd], ["group", group]] as const) {
    const template = await readFile(`/usr/share/base-passwd/${file}.master`, "utf8");
    await writeFile(join(root, "etc", file), `${template.trimEnd()}\n${lines}\n`);
  }
}

async function writeEntry(root: string, path: string, entry: Entry): Promise<void> {
  const target = join(root, path);
  await mkdir(dirname(target), { recursive: true });
  if (typeof entry === "string") return void (await replace(target, entry, 0o644));
  if ("text" in entry) return void (await replace(target, entry.text, entry.mode ?? 0o644));
  await rm(target, { force: true, recursive: !("folder" in entry) });
  if ("symlink" in entry) return void (await symlink(entry.symlink, target));
  if ("hardlink" in entry) return void (await link(join(root, entry.hardlink), target));
  await mkdir(target, { recursive: true });
  await chmod(target, entry.folder);
  if (entry.owner) await command(["chown", entry.owner, target]);
}

async function replace(target: string, text: string, mode: number): Promise<void> {
  await rm(target, { force: true });
  await writeFile(target, text);
  await chmod(target, mode);
}
