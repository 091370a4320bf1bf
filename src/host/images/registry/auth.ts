// Token and basic authentication of registries: WWW-Authenticate challenges (RFC 9110, 11.6.1) and the distribution
// project's token protocol (distribution.github.io, "Token Authentication", "OAuth2").
import { DormouseError } from "../../../errors.ts";
import type { Credentials } from "./credentials.ts";
import { exchange, protocol, readBody, transientStatus, type HttpOptions } from "./http.ts";
import { retrying } from "./retry.ts";

export interface Challenge { readonly scheme: "bearer" | "basic"; readonly parameters: Readonly<Record<string, string>> }

/** The challenge that we can answer; null where there is none. */
export function parseChallenge(header: string | null): Challenge | null {
  const found: Challenge[] = [];
  // `Scheme key="value", key=value, Scheme …`: a word without "=" begins the next challenge.
  for (const match of (header ?? "").matchAll(/([A-Za-z][A-Za-z0-9._~+-]*)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?/g)) {
    const [, word = "", quoted, plain] = match;
    const value = quoted?.replace(/\\(.)/g, "$1") ?? plain;
    const last = found.at(-1);
    if (value !== undefined && last !== undefined) (last.parameters as Record<string, string>)[word.toLowerCase()] = value;
    else if (value === undefined) found.push({ scheme: word.toLowerCase() as Challenge["scheme"], parameters: {} });
  }
  return found.find(({ scheme }) => scheme === "bearer") ?? found.find(({ scheme }) => scheme === "basic") ?? null;
}

const basic = (username: string, password: string): string => `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;

/** The Authorization header that answers `challenge` of `registry`; throws `registry.unauthorized`. */
export async function answerChallenge(challenge: Challenge, credentials: Credentials, registry: URL, repository: string, options: HttpOptions): Promise<string> {
  if (credentials.kind === "bearer") return `Bearer ${credentials.token}`;
  if (challenge.scheme === "bearer") return `Bearer ${await retrying(options, () => fetchToken(challenge, credentials, registry, repository, options))}`;
  if (credentials.kind === "basic") return basic(credentials.username, credentials.password);
  throw unauthorized(registry, repository, "it wants a user name and a password");
}

async function fetchToken(challenge: Challenge, credentials: Credentials, registry: URL, repository: string, options: HttpOptions): Promise<string> {
  const realm = tokenRealm(challenge, registry);
  const scope = challenge.parameters["scope"] ?? `repository:${repository}:pull`;
  const service = challenge.parameters["service"];
  const query = new URLSearchParams({ ...(service === undefined ? {} : { service }), scope });
  const headers: Record<string, string> = credentials.kind === "basic" ? { authorization: basic(credentials.username, credentials.password) } : {};
  let form: URLSearchParams | undefined;
  if (credentials.kind === "identity") {
    form = new URLSearchParams([...query, ["grant_type", "refresh_token"], ["refresh_token", credentials.token], ["client_id", "dormouse"]]);
  } else for (const [key, value] of query) realm.searchParams.set(key, value);
  const answer = await exchange(realm, headers, options, form);
  const transient = await transientStatus(answer);
  if (transient !== null) throw transient;
  const body = await readBody(answer, 1 << 20);
  if (answer.response.status !== 200) throw unauthorized(registry, repository, `${realm.host} refuses a token (status ${answer.response.status})`);
  return tokenIn(body, realm);
}

/** Credentials never go over plain http, unless the registry itself is reached that way. */
function tokenRealm(challenge: Challenge, registry: URL): URL {
  const realm = URL.parse(challenge.parameters["realm"] ?? "");
  if (realm === null || !/^https?:$/.test(realm.protocol)) throw protocol(registry, "it asks for a token and doesn't say where to get one");
  if (realm.protocol === "http:" && registry.protocol === "https:") throw protocol(registry, `it sends us to ${realm.host} for a token without TLS`);
  return realm;
}

function tokenIn(body: Uint8Array, realm: URL): string {
  try {
    const json: unknown = JSON.parse(new TextDecoder().decode(body));
    const { token, access_token: accessToken } = typeof json === "object" && json !== null ? (json as Record<string, unknown>) : {};
    for (const value of [token, accessToken]) if (typeof value === "string" && /^[\x21-\x7e]+$/.test(value)) return value;
  } catch (error) {
    throw new DormouseError("registry.protocol", `Cannot get a token from ${realm.host}: its answer is not JSON`, { cause: error });
  }
  throw protocol(realm, "its answer holds no token");
}

export const unauthorized = (registry: URL, repository: string, why: string): DormouseError =>
  new DormouseError("registry.unauthorized", `Cannot pull ${repository} from ${registry.host}: ${why}; give credentials with the request or log in (an unknown repository looks the same on some registries)`);
