// Manifests, indexes and configurations: OCI image-spec (manifest.md, image-index.md, config.md) and Docker's schema 2.
// What comes from a registry is checked here, once; everything behind works on these types.
import { DormouseError } from "../../errors.ts";
import type { ImageLimits } from "./limits.ts";
import { isDigest } from "./reference.ts";
import type { ImageConfig } from "./service.ts";

export const PLATFORM = "linux/amd64";

export const MEDIA = {
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  dockerIndex: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
} as const;

export interface Descriptor { readonly mediaType: string; readonly digest: string; readonly size: number }

export interface Manifest { readonly kind: "manifest"; readonly config: Descriptor; readonly layers: readonly Descriptor[] }
export interface Index { readonly kind: "index"; readonly entries: readonly IndexEntry[] }
export interface IndexEntry extends Descriptor {
  /** `linux/amd64`, `linux/arm/v7`; null where the index doesn't say. */
  readonly platform: string | null;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A configuration, as far as it is used: how to run it, and the digests of the unpacked layers. */
export interface ParsedConfig { readonly config: ImageConfig; readonly diffIds: readonly string[]; readonly platform: string }

type Json = Record<string, unknown>;
const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const text = (value: unknown): string => (typeof value === "string" ? value : "");

const malformed = (what: string, why: string): DormouseError => new DormouseError("registry.protocol", `Cannot use ${what}: ${why}`);

function parseJson(bytes: Uint8Array, what: string): Json {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new DormouseError("registry.protocol", `Cannot use ${what}: it is not JSON`, { cause: error });
  }
  if (!isRecord(parsed)) throw malformed(what, "it is not a JSON object");
  return parsed;
}

function descriptor(value: unknown, what: string): Descriptor {
  const { mediaType, digest, size } = isRecord(value) ? value : {};
  if (!isDigest(text(digest))) throw malformed(what, `${JSON.stringify(digest)} is not a digest that is supported (sha256, sha512)`);
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) throw malformed(what, `the size of ${text(digest)} is malformed`);
  return { mediaType: text(mediaType), digest: text(digest), size };
}

/** A manifest or an index; `contentType` helps where the document doesn't say what it is. Throws `registry.protocol`. */
export function parseManifest(bytes: Uint8Array, contentType: string, what: string, limits: ImageLimits): Manifest | Index {
  const json = parseJson(bytes, what);
  const mediaType = text(json["mediaType"]) || contentType.split(";")[0]!.trim();
  if (json["schemaVersion"] === 1) throw malformed(what, "it is in Docker's schema 1, which was withdrawn; push the image again with a newer Docker");
  if (Array.isArray(json["manifests"]) && (mediaType === MEDIA.ociIndex || mediaType === MEDIA.dockerIndex || !isRecord(json["config"]))) return parseIndex(json, what);
  if (!isRecord(json["config"]) || !Array.isArray(json["layers"])) throw malformed(what, `it is neither a manifest nor an index (media type ${JSON.stringify(mediaType)})`);
  return parseImageManifest(json, what, limits);
}

function parseIndex(json: Json, what: string): Index {
  const entries = list(json["manifests"]).map((value): IndexEntry => {
    const { platform, annotations } = isRecord(value) ? value : {};
    return { ...descriptor(value, what), platform: isRecord(platform) ? platformName(platform) : null, annotations: stringMap(annotations) };
  });
  return { kind: "index", entries };
}

const platformName = (platform: Json): string => [platform["os"], platform["architecture"], platform["variant"]].map(text).filter((part) => part !== "").join("/");

function parseImageManifest(json: Json, what: string, limits: ImageLimits): Manifest {
  const config = descriptor(json["config"], what);
  const known: readonly string[] = [MEDIA.ociConfig, MEDIA.dockerConfig, "application/octet-stream", ""];
  if (!known.includes(config.mediaType)) throw malformed(what, `it is not a container image but ${config.mediaType}`);
  const layers = list(json["layers"]).map((layer) => descriptor(layer, what));
  if (layers.length > limits.maxLayers) throw malformed(what, `it has ${layers.length} layers, more than ${limits.maxLayers}`);
  const total = layers.reduce((sum, layer) => sum + layer.size, 0);
  if (total > limits.maxDownloadBytes) throw new DormouseError("image.too_large", `Cannot use ${what}: its layers take ${total} bytes, more than ${limits.maxDownloadBytes}`);
  const odd = layers.find((layer) => !/^application\/vnd\.(?:oci\.image\.layer|docker\.image\.rootfs)\.|^$|^application\/(?:octet-stream|x-tar|x-gzip|gzip)$/.test(layer.mediaType));
  if (odd !== undefined) throw malformed(what, `a layer has the media type ${JSON.stringify(odd.mediaType)}, which is not a file system`);
  if (layers.some((layer) => layer.mediaType.includes("encrypted"))) throw malformed(what, "its layers are encrypted");
  return { kind: "manifest", config, layers };
}

/** The entry for our platform; `platform.invalid` names what there is. */
export function choosePlatform(index: Index, what: string): IndexEntry {
  const usable = index.entries.filter((entry) => entry.annotations["vnd.docker.reference.type"] === undefined);
  const found = [PLATFORM, `${PLATFORM}/v1`, `${PLATFORM}/v2`].map((name) => usable.find((entry) => entry.platform === name)).find((entry) => entry !== undefined);
  // An index of one nameless manifest: its configuration tells, and is checked.
  const chosen = found ?? (usable.length === 1 && usable[0]!.platform === null ? usable[0] : undefined);
  if (chosen !== undefined) return chosen;
  const offered = usable.map((entry) => entry.platform ?? "unnamed").join(", ") || "nothing";
  throw new DormouseError("platform.invalid", `Cannot use ${what}: it is not built for ${PLATFORM}; it offers ${offered.slice(0, 300)}`);
}

/** An image's configuration. Throws `registry.protocol`, or `platform.invalid` for an image of another platform. */
export function parseConfig(bytes: Uint8Array, what: string): ParsedConfig {
  const json = parseJson(bytes, `the configuration of ${what}`);
  const platform = `${text(json["os"]) || "linux"}/${text(json["architecture"]) || "amd64"}`;
  if (platform !== PLATFORM) throw new DormouseError("platform.invalid", `Cannot use ${what}: it is built for ${platform.slice(0, 100)}, not for ${PLATFORM}`);
  const rootfs = isRecord(json["rootfs"]) ? json["rootfs"] : {};
  const diffIds = list(rootfs["diff_ids"]).map(text);
  if (!diffIds.every(isDigest)) throw malformed(`the configuration of ${what}`, "a diff id is not a digest");
  return { config: runConfig(isRecord(json["config"]) ? json["config"] : {}), diffIds, platform };
}

function runConfig(json: Json): ImageConfig {
  return {
    entrypoint: strings(json["Entrypoint"]),
    cmd: strings(json["Cmd"]),
    env: strings(json["Env"]) ?? [],
    workingDir: text(json["WorkingDir"]) || null,
    user: text(json["User"]) || null,
    volumes: isRecord(json["Volumes"]) ? Object.keys(json["Volumes"]) : [],
    stopSignal: text(json["StopSignal"]) || null,
    exposedPorts: isRecord(json["ExposedPorts"]) ? Object.keys(json["ExposedPorts"]) : [],
    labels: stringMap(json["Labels"]),
  };
}

const strings = (value: unknown): string[] | null => (Array.isArray(value) ? value.filter((item): item is string => typeof item === "string") : null);

function stringMap(value: unknown): Record<string, string> {
  if (!isRecord(value)) return {};
  return Object.fromEntries(Object.entries(value).filter((pair): pair is [string, string] => typeof pair[1] === "string"));
}

/** `sha256:…` of `bytes`, or by the algorithm that `like` names. */
export function digestOf(bytes: Uint8Array, like = "sha256:"): string {
  const algorithm = like.startsWith("sha512:") ? "sha512" : "sha256";
  return `${algorithm}:${new Bun.CryptoHasher(algorithm).update(bytes).digest("hex")}`;
}
