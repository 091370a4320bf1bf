// Which images a folder or archive holds, and under which names: OCI image-layout.md, and Docker's image save format.
import { basename } from "node:path";
import { DormouseError } from "../../../errors.ts";
import type { ImageFiles } from "../files.ts";
import type { ImageLimits } from "../limits.ts";
import { parseManifest, type Index } from "../manifest.ts";
import { formatReference, parseReference } from "../reference.ts";
import { openTree, readMember, type FileTree } from "./tree.ts";

/** What `docker save` says of one image. */
export interface SavedImage { readonly config: string; readonly layers: readonly string[]; readonly tags: readonly string[] }

export type Held = { readonly kind: "oci"; readonly index: Index } | { readonly kind: "docker"; readonly images: readonly SavedImage[] };

/** One image: `pick` finds it again (a name in the index, a position), null where there is nothing to choose. */
interface Choice { readonly pick: string | null; readonly names: readonly string[] }

export interface Inspected { readonly tree: FileTree; readonly pick: string | null; readonly names: readonly string[] }

/** Opens `path` and chooses the image: the one that there is, or the one that is `wanted`. Throws DormouseError. */
export async function inspectFile(path: string, wanted: string | null, files: ImageFiles, limits: ImageLimits, signal: AbortSignal): Promise<Inspected> {
  const tree = await openTree(path, files, limits, signal);
  try {
    const choices = choicesOf(await readHeld(tree, path, limits), path);
    return { tree, ...choose(choices, wanted, path) };
  } catch (error) {
    tree.release();
    throw error;
  }
}

function choose(choices: readonly Choice[], wanted: string | null, path: string): { pick: string | null; names: readonly string[] } {
  const named = wanted === null ? undefined : choices.find((choice) => choice.names.includes(wanted));
  const only = choices.length === 1 ? choices[0] : undefined;
  const chosen = named ?? only;
  if (chosen === undefined) {
    const offered = choices.flatMap((choice) => choice.names).join(", ");
    throw new DormouseError("request.bad", `Cannot load ${path}: it holds ${choices.length} images${wanted === null ? "" : ` and none is ${wanted}`}; name one of ${offered.slice(0, 500)}`);
  }
  return { pick: chosen.pick, names: wanted === null ? chosen.names : [wanted] };
}

/** Throws `image.convert_failed` where it is neither format. */
export async function readHeld(tree: FileTree, path: string, limits: ImageLimits): Promise<Held> {
  const index = tree.find("index.json");
  if (index !== null && tree.find("oci-layout") !== null) {
    const parsed = parseManifest(await readMember(index, limits.maxManifestBytes, "index.json"), "", `index.json of ${path}`, limits);
    if (parsed.kind === "index") return { kind: "oci", index: parsed };
  }
  const saved = tree.find("manifest.json");
  if (saved !== null) return { kind: "docker", images: parseSaved(await readMember(saved, limits.maxManifestBytes, "manifest.json"), path) };
  throw new DormouseError("image.convert_failed", `Cannot load ${path}: it is neither an OCI layout (index.json, oci-layout) nor a docker save archive (manifest.json)`);
}

function parseSaved(bytes: Uint8Array, path: string): SavedImage[] {
  const malformed = (cause?: unknown): DormouseError => new DormouseError("image.convert_failed", `Cannot load ${path}: its manifest.json is malformed`, { cause });
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw malformed(error);
  }
  if (!Array.isArray(json)) throw malformed();
  return json.map((image: unknown) => {
    const { Config: config, Layers: layers, RepoTags: tags } = typeof image === "object" && image !== null ? (image as Record<string, unknown>) : {};
    if (typeof config !== "string" || !isStrings(layers)) throw malformed();
    return { config, layers, tags: isStrings(tags) ? tags : [] };
  });
}

const isStrings = (value: unknown): value is string[] => Array.isArray(value) && value.every((item) => typeof item === "string");

function choicesOf(held: Held, path: string): Choice[] {
  if (held.kind === "docker") {
    return held.images.map((image, position) => ({ pick: String(position), names: namesOr(image.tags.flatMap(whole), path) }));
  }
  const annotated = new Map<string, string[]>();
  for (const { annotations } of held.index.entries) {
    const key = nameIn(annotations);
    if (key !== null) annotated.set(key, normalized(key, path));
  }
  // Without names, the whole index is one image, perhaps for several platforms.
  if (annotated.size === 0) return [{ pick: null, names: namesOr([], path) }];
  return [...annotated].map(([pick, names]) => ({ pick, names: namesOr(names, path) }));
}

/** The name in an index entry's annotations: containerd's is whole, OCI's may be only a tag. */
export const nameIn = (annotations: Readonly<Record<string, string>>): string | null => annotations["io.containerd.image.name"] ?? annotations["org.opencontainers.image.ref.name"] ?? null;

/** A bare tag (`latest`) gets its repository from the file's name. */
const normalized = (text: string, path: string): string[] => whole(/[:/@]/.test(text) ? text : `${repositoryFrom(path)}:${text}`);

/** A reference, normalized; nothing where it is none. */
const whole = (text: string): string[] => parseReference(text).map(formatReference).match((name) => [name], () => []);

const namesOr = (names: readonly string[], path: string): readonly string[] => (names.length > 0 ? names : normalized("latest", path));

/** `/x/My Image.tar.gz` → `my-image`. */
function repositoryFrom(path: string): string {
  const stem = basename(path).toLowerCase().replace(/(?:\.tar)?(?:\.(?:gz|zst|tgz|tar))?$/, "");
  return stem.replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "") || "loaded";
}
