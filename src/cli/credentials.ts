// Credentials of registries: our own file (`dormouse login`), then Docker's config.json. Both have Docker's format:
// `{"auths": {"<registry>": {"auth": base64("user:password")}}}`.
import { chmod, mkdir, open, readFile, rename } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import type { Credentials } from "./api.ts";
import { CliError } from "./fail.ts";

interface AuthEntry { auth?: string; username?: string; password?: string; registrytoken?: string }
interface AuthFile { auths?: Record<string, AuthEntry>; [other: string]: unknown }

/** Under which name Docker keeps its default registry. */
const DOCKER_HUB_KEY = "https://index.docker.io/v1/";
const DOCKER_HUB_NAMES = new Set(["docker.io", "index.docker.io", "registry-1.docker.io"]);

/** `$XDG_CONFIG_HOME/dormouse/auth.json`, ours. */
const authFilePath = (): string => join(process.env["XDG_CONFIG_HOME"] || join(homedir(), ".config"), "dormouse", "auth.json");
const dockerConfigPath = (): string => join(process.env["DOCKER_CONFIG"] || join(homedir(), ".docker"), "config.json");

/** The registry of an image reference, by Docker's rule: the first component, if it looks like a host. */
export function registryOf(reference: string): string {
  const first = reference.split("/")[0] ?? "";
  const isHost = reference.includes("/") && (first.includes(".") || first.includes(":") || first === "localhost");
  return isHost ? normalize(first) : "docker.io";
}

/** A registry as people write it (URL, host, one of Docker Hub's names) as its host. */
export function normalize(registry: string): string {
  const host = registry.replace(/^https?:\/\//, "").split("/")[0] ?? registry;
  return DOCKER_HUB_NAMES.has(host) ? "docker.io" : host;
}

/** What to send with a pull of `reference`; undefined where nothing is on file: the daemon then asks its own. */
export async function credentialsFor(reference: string): Promise<Credentials | undefined> {
  const registry = registryOf(reference);
  for (const path of [authFilePath(), dockerConfigPath()]) {
    const found = entryFor(await readAuthFile(path), registry);
    if (found !== undefined) return found;
  }
  return undefined;
}

function entryFor(file: AuthFile, registry: string): Credentials | undefined {
  for (const [key, entry] of Object.entries(file.auths ?? {})) {
    if (key !== registry && normalize(key) !== registry) continue;
    if (entry.registrytoken) return { registry_token: entry.registrytoken };
    const pair = entry.auth ? Buffer.from(entry.auth, "base64").toString() : `${entry.username ?? ""}:${entry.password ?? ""}`;
    const colon = pair.indexOf(":");
    const username = pair.slice(0, colon), password = pair.slice(colon + 1).replace(/\0+$/, "");
    // Docker leaves an empty entry where a credential helper holds the secret.
    if (colon > 0 && password !== "") return { username, password };
  }
  return undefined;
}

async function readAuthFile(path: string): Promise<AuthFile> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw new CliError(`Cannot read credentials from ${path}: ${(cause as Error).message}`);
  }
  try {
    const file: unknown = JSON.parse(text);
    if (typeof file === "object" && file !== null && !Array.isArray(file)) return file as AuthFile;
  } catch {
    // Said below: what is wrong in it must not be shown, it may hold a secret.
  }
  throw new CliError(`Cannot read credentials from ${path}: it is not a JSON object; correct or remove it`);
}

/** Keeps `username` and `password` for `registry`, in a file that only its owner can read. Returns its path. */
export async function saveCredentials(registry: string, username: string, password: string): Promise<string> {
  const host = normalize(registry);
  await changeAuthFile((auths) => {
    for (const key of Object.keys(auths)) if (normalize(key) === host) delete auths[key];
    auths[host === "docker.io" ? DOCKER_HUB_KEY : host] = { auth: Buffer.from(`${username}:${password}`).toString("base64") };
  });
  return authFilePath();
}

async function changeAuthFile(change: (auths: Record<string, AuthEntry>) => void): Promise<void> {
  const path = authFilePath();
  const file = await readAuthFile(path);
  const auths = { ...file.auths };
  change(auths);
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    // A new file, so that the secret is never in one that others can read, and a crash leaves the old one whole.
    const part = `${path}.${process.pid}.part`;
    const out = await open(part, "w", 0o600);
    try {
      await chmod(part, 0o600);
      await out.writeFile(JSON.stringify({ ...file, auths }, null, 2) + "\n");
      await out.sync();
    } finally {
      await out.close();
    }
    await rename(part, path);
  } catch (cause) {
    throw new CliError(`Cannot keep the credentials in ${path}: ${(cause as Error).message}`);
  }
}
