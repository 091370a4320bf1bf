// Image references as Docker writes them: [host[:port]/]path[:tag][@digest], normalized as the distribution project does
// (github.com/distribution/reference, "Grammar"): docker.io and library/ are implied, and so is the tag latest.
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";

const DEFAULT_HOST = "docker.io";
/** Where the registry of docker.io really answers. */
const DEFAULT_API_HOST = "registry-1.docker.io";

export interface Reference {
  /** `host[:port]`, `docker.io` by default. */
  readonly host: string;
  /** `library/nginx`. */
  readonly repository: string;
  readonly tag: string | null;
  readonly digest: string | null;
}

const HOST = /^(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::[0-9]{1,5})?$/;
const COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

export const isDigest = (text: string): boolean => DIGEST.test(text);

/** `request.bad` where `text` is no reference; says what is wrong with it. */
export function parseReference(text: string): Res<Reference> {
  const bad = (why: string) => fail("request.bad", `Cannot read the image name ${JSON.stringify(text.slice(0, 300))}: ${why}`);
  const [withTag = "", digest = null, ...rest] = text.split("@");
  if (rest.length > 0 || (digest !== null && !DIGEST.test(digest))) return bad("after @ there must be a digest, sha256: and 64 hexadecimal digits");
  const colon = withTag.lastIndexOf(":");
  const hasTag = colon > withTag.lastIndexOf("/");
  const tag = hasTag ? withTag.slice(colon + 1) : null;
  if (tag !== null && !TAG.test(tag)) return bad("a tag has letters, digits, _ . and -, at most 128");
  const { host, path } = splitHost(hasTag ? withTag.slice(0, colon) : withTag);
  if (!HOST.test(host)) return bad("the registry's host is malformed");
  const repository = host === DEFAULT_HOST && !path.includes("/") ? `library/${path}` : path;
  if (host.length + repository.length > 255) return bad("it is longer than 255 characters");
  if (/[A-Z]/.test(path)) return bad("a repository's name is lower case");
  if (!repository.split("/").every((part) => COMPONENT.test(part))) return bad("a name has lower-case letters and digits, separated by . _ - or /");
  return ok({ host, repository, tag: tag ?? (digest === null ? "latest" : null), digest });
}

/** The first component is a host if it looks like one: a dot, a port, or localhost. */
function splitHost(name: string): { host: string; path: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  if (first === "" || !(/[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase())) return { host: DEFAULT_HOST, path: name };
  const host = first === "index.docker.io" || first === DEFAULT_API_HOST ? DEFAULT_HOST : first;
  return { host, path: name.slice(slash + 1) };
}

/** The name under which an image is on record. With a digest, the tag says nothing (as in Docker). */
export function formatReference(ref: Reference): string {
  const name = `${ref.host}/${ref.repository}`;
  return ref.digest !== null ? `${name}@${ref.digest}` : `${name}:${ref.tag ?? "latest"}`;
}

/** Loopback registries speak plain http, as Docker takes them to. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/:[0-9]+$/, "");
  return name === "localhost" || name === "[::1]" || /^127(?:\.[0-9]{1,3}){3}$/.test(name);
}

/** `http://127.0.0.1:5000`, `https://…`: where `host`'s API is. `insecure` names hosts that are reached without TLS. */
export function apiOrigin(host: string, insecure: readonly string[]): string {
  const scheme = isLoopback(host) || insecure.includes(host) ? "http" : "https";
  return `${scheme}://${host === DEFAULT_HOST ? DEFAULT_API_HOST : host}`;
}
