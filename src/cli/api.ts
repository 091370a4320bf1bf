// A small typed client of the daemon's HTTP API (docs/api-compatibility.md). Throws CliError, never anything else,
// with the daemon's own message and code where it answered.
import type { AutoStandbyStatus, Compression, Credentials, Image, Ingress, IngressCreate, Instance, InstanceCreate, InstanceUpdate, LogSource, PathInfo, Schedule, Snapshot, Usage, Volume, VolumeCreate, VolumeMount } from "./api-types.ts";
import { CliError, STATUS_USAGE } from "./fail.ts";

export const DEFAULT_HOST = "http://127.0.0.1:4973";

export type * from "./api-types.ts";

type Query = Readonly<Record<string, string | number | boolean | undefined>>;
interface Options { readonly query?: Query; readonly body?: unknown; readonly archive?: ReadableStream<Uint8Array>; readonly signal?: AbortSignal; readonly accept?: string }

const enc = encodeURIComponent;
type Tags = Readonly<Record<string, string>>;
/** Of `tags[team]=x`. */
const tagQuery = (tags: Tags = {}): Query => Object.fromEntries(Object.entries(tags).map(([key, value]) => [`tags[${key}]`, value]));

export class Api {
  private readonly base: URL;

  /** `host`: an http URL, or `host:port`. */
  constructor(host: string) {
    const text = host.includes("://") ? host : `http://${host}`;
    const url = URL.parse(text);
    if (url === null || !/^https?:$/.test(url.protocol)) throw new CliError(`Cannot use ${host} as the API's address: give a URL such as ${DEFAULT_HOST}`, "usage", STATUS_USAGE);
    this.base = url;
    // A proxy of the environment knows nothing of the daemon on this machine; fetch would ask it all the same.
    process.env["NO_PROXY"] = [process.env["NO_PROXY"], url.hostname].filter(Boolean).join(",");
  }

  get address(): string { return this.base.origin; }

  capabilities = () => this.json<{ server: { version: string; api_version: string } }>("GET", "/capabilities");
  usage = () => this.json<Usage>("GET", "/usage");

  images = () => this.json<Image[]>("GET", "/images");
  image = (name: string) => this.json<Image>("GET", `/images/${enc(name)}`);
  pull = (name: string, credentials?: Credentials) => this.json<Image>("POST", "/images", { body: { name, credentials } });
  /** `path` is one of the daemon's host. */
  load = (path: string, name?: string) => this.json<Image>("POST", "/images/load", { body: { path, name } });
  removeImage = (name: string) => this.nothing("DELETE", `/images/${enc(name)}`);

  ingresses = (tags?: Tags) => this.json<Ingress[]>("GET", "/ingresses", { query: tagQuery(tags) });
  ingress = (ref: string) => this.json<Ingress>("GET", `/ingresses/${enc(ref)}`);
  createIngress = (body: IngressCreate) => this.json<Ingress>("POST", "/ingresses", { body });
  removeIngress = (ref: string) => this.nothing("DELETE", `/ingresses/${enc(ref)}`);

  volumes = (tags?: Tags) => this.json<Volume[]>("GET", "/volumes", { query: tagQuery(tags) });
  volume = (ref: string) => this.json<Volume>("GET", `/volumes/${enc(ref)}`);
  createVolume = (body: VolumeCreate) => this.json<Volume>("POST", "/volumes", { body });
  /** `archive`: a tar.gz, sent as it is read. */
  createVolumeFrom = ({ name, size_gb, id, tags }: VolumeCreate, archive: ReadableStream<Uint8Array>) =>
    this.json<Volume>("POST", "/volumes/from-archive", { query: { name, size_gb, id, ...tagQuery(tags) }, archive });
  removeVolume = (ref: string) => this.nothing("DELETE", `/volumes/${enc(ref)}`);
  attachVolume = (ref: string, volume: string, body: Omit<VolumeMount, "volume_id">) => this.json<Instance>("POST", `/instances/${enc(ref)}/volumes/${enc(volume)}`, { body });
  detachVolume = (ref: string, volume: string) => this.json<Instance>("DELETE", `/instances/${enc(ref)}/volumes/${enc(volume)}`);

  instances = () => this.json<Instance[]>("GET", "/instances");
  instance = (ref: string) => this.json<Instance>("GET", `/instances/${enc(ref)}`);
  create = (body: InstanceCreate) => this.json<Instance>("POST", "/instances", { body });
  start = (ref: string) => this.json<Instance>("POST", `/instances/${enc(ref)}/start`, { body: {} });
  stop = (ref: string, graceMs?: number) =>
    this.json<Instance>("POST", `/instances/${enc(ref)}/stop`, { query: { grace: graceMs === undefined ? undefined : `${graceMs}ms` } });
  remove = (ref: string, graceful: boolean) => this.nothing("DELETE", `/instances/${enc(ref)}`, { query: { graceful_shutdown: graceful } });

  stat = (ref: string, path: string) => this.json<PathInfo>("GET", `/instances/${enc(ref)}/stat`, { query: { path, follow_links: true } });

  standby = (ref: string, body: { compression?: Compression; compression_delay?: string; force?: boolean }) => this.json<Instance>("POST", `/instances/${enc(ref)}/standby`, { body });
  restore = (ref: string) => this.json<Instance>("POST", `/instances/${enc(ref)}/restore`);
  fork = (ref: string, body: { name: string; from_running?: boolean; target_state?: string }) => this.json<Instance>("POST", `/instances/${enc(ref)}/fork`, { body });
  update = (ref: string, body: InstanceUpdate) => this.json<Instance>("PATCH", `/instances/${enc(ref)}`, { body });
  autoStandby = (ref: string) => this.json<AutoStandbyStatus>("GET", `/instances/${enc(ref)}/auto-standby/status`);
  holdAutoStandby = (ref: string) => this.json<AutoStandbyStatus>("POST", `/instances/${enc(ref)}/auto-standby/hold`);

  snapshots = (query: Query = {}) => this.json<Snapshot[]>("GET", "/snapshots", { query });
  snapshot = (ref: string) => this.json<Snapshot>("GET", `/snapshots/${enc(ref)}`);
  removeSnapshot = (ref: string) => this.nothing("DELETE", `/snapshots/${enc(ref)}`);
  forkSnapshot = (ref: string, body: { name: string; target_state?: string }) => this.json<Instance>("POST", `/snapshots/${enc(ref)}/fork`, { body });
  createSnapshot = (ref: string, body: { kind: string; name?: string; tags?: Readonly<Record<string, string>>; compression?: Compression }) =>
    this.json<Snapshot>("POST", `/instances/${enc(ref)}/snapshots`, { body });
  restoreSnapshot = (ref: string, snapshot: string, body: { target_state?: string }) => this.json<Instance>("POST", `/instances/${enc(ref)}/snapshots/${enc(snapshot)}/restore`, { body });
  schedule = (ref: string) => this.json<Schedule>("GET", `/instances/${enc(ref)}/snapshot-schedule`);
  setSchedule = (ref: string, body: unknown) => this.json<Schedule>("PUT", `/instances/${enc(ref)}/snapshot-schedule`, { body });
  removeSchedule = (ref: string) => this.nothing("DELETE", `/instances/${enc(ref)}/snapshot-schedule`);

  /** Waits until the instance is in `state` or in one from which it can't get there; no limit of its own. */
  async wait(ref: string, state: string): Promise<Instance> {
    for (;;) {
      const answer = await this.json<{ timed_out: boolean }>("GET", `/instances/${enc(ref)}/wait`, { query: { state, timeout: "5m" } });
      if (!answer.timed_out) return this.instance(ref);
    }
  }

  /** Lines of a log. Ends where the daemon ends it: at the last line, or with `follow` when the instance stops. */
  async *logs(ref: string, options: { source?: LogSource; tail?: number; follow?: boolean; signal?: AbortSignal }): AsyncGenerator<string> {
    const { signal, ...query } = options;
    const response = await this.request("GET", `/instances/${enc(ref)}/logs`, { query, signal, accept: "text/event-stream" });
    if (response.body === null) return;
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for await (const chunk of response.body) {
        const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) if (line.startsWith("data:")) yield JSON.parse(line.slice(5)) as string;
      }
    } catch (cause) {
      if (signal?.aborted) return;
      throw new CliError(`Cannot read on the log of ${ref}: the connection to the daemon broke (${reason(cause)})`, "connection");
    }
  }

  /** Why a WebSocket route refused us: its answer to a plain request. */
  async explain(path: string): Promise<CliError> {
    const response = await this.request("GET", path);
    return new CliError(`Cannot open a session: ${this.address} took no WebSocket but answered ${response.status}`, "protocol");
  }

  /** Address of a WebSocket route. */
  socketUrl(path: string): string {
    const url = new URL(path, this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url.href;
  }

  private async nothing(method: string, path: string, options?: Options): Promise<void> {
    await (await this.request(method, path, options)).arrayBuffer();
  }

  private async json<T>(method: string, path: string, options?: Options): Promise<T> {
    const response = await this.request(method, path, options);
    try {
      return (await response.json()) as T;
    } catch (cause) {
      if (isBroken(cause)) throw this.unreached(cause);
      throw new CliError(`Cannot understand the answer of ${this.address} to ${method} ${path}: ${reason(cause)}; is it a Dormouse daemon?`, "protocol");
    }
  }

  private async request(method: string, path: string, options: Options = {}): Promise<Response> {
    const url = new URL(path, this.base);
    for (const [key, value] of Object.entries(options.query ?? {})) if (value !== undefined) url.searchParams.set(key, String(value));
    const init: BunFetchRequestInit = { method, headers: { accept: options.accept ?? "application/json" }, timeout: false };
    if (options.signal !== undefined) init.signal = options.signal;
    if (options.body !== undefined) {
      init.body = JSON.stringify(options.body);
      init.headers = { ...init.headers, "content-type": "application/json" };
    }
    if (options.archive !== undefined) {
      init.body = options.archive;
      init.headers = { ...init.headers, "content-type": "application/gzip" };
    }
    let response: Response;
    try {
      response = await fetch(url, init);
    } catch (cause) {
      throw cause instanceof CliError ? cause : this.unreached(cause); // what was to be sent could not be read
    }
    if (response.ok) return response;
    throw await refused(response, `${method} ${path}`);
  }

  private unreached(cause: unknown): CliError {
    if (isBroken(cause)) return new CliError(`Cannot go on: the daemon at ${this.address} broke the connection off; its log says more`, "connection");
    return new CliError(`Cannot reach the daemon at ${this.address}: ${reason(cause)}; is \`dormouse serve\` running there? (--host or DORMOUSE_HOST names another address)`, "connection");
  }
}

async function refused(response: Response, what: string): Promise<CliError> {
  const body: unknown = await response.json().catch(() => null); // an answer of somebody else's server: its status says enough
  if (typeof body === "object" && body !== null && "message" in body && "code" in body) return new CliError(String(body.message), String(body.code));
  return new CliError(`Cannot do ${what}: the server answered ${response.status} ${response.statusText}; is it a Dormouse daemon?`, "protocol");
}

const codeOf = (cause: unknown): string => String((cause as { code?: unknown }).code ?? "");
const isBroken = (cause: unknown): boolean => /closed|reset/i.test(codeOf(cause));

function reason(cause: unknown): string {
  if (/refused/i.test(codeOf(cause))) return "connection refused";
  if (isBroken(cause)) return "it was closed";
  if (codeOf(cause) === "ENOTFOUND") return "there is no host of this name";
  // The runtime's own texts guess at typing errors; the system's name for it says more.
  if (/^E[A-Z]+$/.test(codeOf(cause))) return codeOf(cause);
  return cause instanceof Error ? cause.message : String(cause);
}
