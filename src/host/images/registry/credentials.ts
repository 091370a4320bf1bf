// Credentials for a registry: those of the request, else Docker's config.json (docs.docker.com, "docker login").
import { readFileSync } from "node:fs";
import { DormouseError, messageOf } from "../../../errors.ts";
import type { PullCredentials } from "../service.ts";

/** What the client sends; `none` is an anonymous pull. */
export type Credentials =
  | { readonly kind: "none" }
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  /** An OAuth 2 refresh token, exchanged at the token endpoint. */
  | { readonly kind: "identity"; readonly token: string }
  /** A bearer token for the registry itself. */
  | { readonly kind: "bearer"; readonly token: string };

const NONE: Credentials = { kind: "none" };

export function fromRequest(request: PullCredentials): Credentials {
  if (request.registryToken) return { kind: "bearer", token: request.registryToken };
  if (request.identityToken) return { kind: "identity", token: request.identityToken };
  if (request.username === undefined && request.password === undefined) return NONE;
  return { kind: "basic", username: request.username ?? "", password: request.password ?? "" };
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** The entry for `host` in Docker's config.json at `path`; none where there is no file or no entry. Throws DormouseError. */
export function fromDockerConfig(path: string, host: string): Credentials {
  const config = readConfig(path);
  if (config === null) return NONE;
  const keys = host === "docker.io" ? ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] : [host, `https://${host}`, `http://${host}`, `https://${host}/`, `http://${host}/`];
  const entryOf = (table: unknown): unknown => (isRecord(table) ? keys.map((key) => table[key]).find((value) => value !== undefined) : undefined);
  const helper = entryOf(config["credHelpers"]);
  if (helper !== undefined) throw helperRefused(path, host, text(helper));
  const entry = entryOf(config["auths"]);
  if (!isRecord(entry)) return NONE;
  const found = fromEntry(entry);
  // `docker login` leaves an empty entry behind where a store keeps the secret.
  if (found.kind === "none" && text(config["credsStore"]) !== "") throw helperRefused(path, host, text(config["credsStore"]));
  return found;
}

function readConfig(path: string): Record<string, unknown> | null {
  try {
    const parsed: unknown = JSON.parse(readFileSync(path, "utf8"));
    if (isRecord(parsed)) return parsed;
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR")) return null;
    throw new DormouseError("registry.unauthorized", `Cannot read registry credentials from ${path}: ${messageOf(error)}`, { cause: error });
  }
  throw new DormouseError("registry.unauthorized", `Cannot read registry credentials from ${path}: it is not a JSON object`);
}

function fromEntry(entry: Record<string, unknown>): Credentials {
  if (text(entry["registrytoken"]) !== "") return { kind: "bearer", token: text(entry["registrytoken"]) };
  if (text(entry["identitytoken"]) !== "") return { kind: "identity", token: text(entry["identitytoken"]) };
  const decoded = Buffer.from(text(entry["auth"]), "base64").toString("utf8");
  const colon = decoded.indexOf(":");
  if (colon > 0) return { kind: "basic", username: decoded.slice(0, colon), password: decoded.slice(colon + 1).replace(/\0+$/, "") };
  return text(entry["username"]) === "" ? NONE : { kind: "basic", username: text(entry["username"]), password: text(entry["password"]) };
}

const helperRefused = (path: string, host: string, helper: string): DormouseError =>
  new DormouseError("registry.unauthorized", `Cannot get credentials for ${host}: ${path} leaves them to the helper docker-credential-${helper}, and helpers are not run; give the credentials with the request, or log in without a helper`);
