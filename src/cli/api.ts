// A small typed client of the daemon's HTTP API (docs/api-compatibility.md). Throws CliError, never anything else,
// with the daemon's own message and code where it answered.
import { CliError, STATUS_USAGE } from "./fail.ts";

export const DEFAULT_HOST = "http://127.0.0.1:4973";

export interface PortMapping { readonly guest_port: number; readonly host_port: number; readonly protocol?: "tcp" | "udp" }

export interface Compression { readonly enabled: boolean; readonly algorithm?: "zstd" | "lz4"; readonly level?: number }

export interface AutoStandby {
  readonly enabled?: boolean;
  readonly idle_timeout?: string;
  readonly ignore_destination_ports?: readonly number[];
  readonly ignore_source_cidrs?: readonly string[];
  readonly wake_on_packet?: boolean;
}

export interface InstanceUpdate {
  readonly auto_standby?: AutoStandby;
  readonly snapshot_policy?: { readonly compression?: Compression; readonly standby_compression_delay?: string };
}

export interface AutoStandbyStatus {
  readonly status: string;
  readonly reason: string;
  readonly active_inbound_connections: number;
  readonly idle_timeout?: string | null;
  readonly idle_since?: string | null;
  readonly next_standby_at?: string | null;
  readonly hold_until?: string | null;
}

export interface Snapshot {
  readonly id: string;
  readonly name?: string | null;
  readonly kind: "Standby" | "Stopped";
  readonly created_at: string;
  readonly source_instance_id: string;
  readonly source_instance_name: string;
  readonly size_bytes: number;
  readonly compression?: Compression;
  readonly compression_state?: "none" | "compressing" | "compressed" | "error";
  readonly compression_error?: string | null;
}

export interface Schedule {
  readonly interval: string;
  readonly retention: { readonly max_count?: number; readonly max_age?: string };
  readonly name_prefix?: string | null;
  readonly next_run_at: string;
  readonly last_run_at?: string | null;
  readonly last_error?: string | null;
}

/** The fields of the contract's Instance that the command line shows. `--json` passes on all that the daemon sends. */
export interface Instance {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly state: string;
  readonly state_error?: string | null;
  readonly created_at: string;
  readonly started_at?: string | null;
  readonly stopped_at?: string | null;
  readonly exit_code?: number | null;
  readonly exit_message?: string | null;
  readonly network?: { readonly ip?: string | null };
  readonly port_mappings?: readonly PortMapping[];
  readonly current_phase_since?: string;
  readonly auto_standby?: AutoStandby;
  readonly snapshot_policy?: { readonly compression?: Compression; readonly standby_compression_delay?: string };
}

export interface InstanceCreate {
  readonly name: string;
  readonly image: string;
  readonly size?: string;
  readonly vcpus?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly entrypoint?: readonly string[];
  readonly cmd?: readonly string[];
  readonly port_mappings?: readonly PortMapping[];
  readonly tty?: boolean;
  readonly open_stdin?: boolean;
  readonly auto_standby?: AutoStandby;
}

export interface Image {
  readonly name: string;
  readonly digest: string;
  readonly status: "pending" | "pulling" | "converting" | "ready" | "failed";
  readonly error?: string | null;
  readonly platform?: string;
  readonly size_bytes?: number | null;
  readonly created_at: string;
  readonly queue_position?: number | null;
  /** Of the step that `status` names; an extension of ours. */
  readonly progress?: { readonly done_bytes: number; readonly total_bytes: number } | null;
}

export interface IngressRule {
  readonly match: { readonly hostname: string; readonly port?: number };
  readonly target: { readonly instance: string; readonly port: number };
  readonly request_header_auth?: { readonly header: string; readonly value: string };
}
export interface IngressCreate { readonly name: string; readonly rules: readonly IngressRule[]; readonly tags?: Readonly<Record<string, string>> }
export interface Ingress extends IngressCreate { readonly id: string; readonly created_at: string }

export interface Usage {
  readonly images: { readonly count: number; readonly blob_bytes: number; readonly rootfs_bytes: number };
  readonly instances: { readonly count: number; readonly disk_bytes: number };
  readonly snapshots: { readonly count: number; readonly disk_bytes: number };
  readonly shared_disk_bytes: number;
  readonly saved_memory_bytes: number;
  readonly free_bytes: number;
}

export interface Credentials { username?: string; password?: string; registry_token?: string }
export type LogSource = "app" | "vmm" | "dormouse";

type Query = Readonly<Record<string, string | number | boolean | undefined>>;
interface Options { readonly query?: Query; readonly body?: unknown; readonly signal?: AbortSignal; readonly accept?: string }

const enc = encodeURIComponent;

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

  ingresses = (tags: Readonly<Record<string, string>> = {}) =>
    this.json<Ingress[]>("GET", "/ingresses", { query: Object.fromEntries(Object.entries(tags).map(([key, value]) => [`tags[${key}]`, value])) });
  ingress = (ref: string) => this.json<Ingress>("GET", `/ingresses/${enc(ref)}`);
  createIngress = (body: IngressCreate) => this.json<Ingress>("POST", "/ingresses", { body });
  removeIngress = (ref: string) => this.nothing("DELETE", `/ingresses/${enc(ref)}`);

  instances = () => this.json<Instance[]>("GET", "/instances");
  instance = (ref: string) => this.json<Instance>("GET", `/instances/${enc(ref)}`);
  create = (body: InstanceCreate) => this.json<Instance>("POST", "/instances", { body });
  start = (ref: string) => this.json<Instance>("POST", `/instances/${enc(ref)}/start`, { body: {} });
  stop = (ref: string, graceMs?: number) =>
    this.json<Instance>("POST", `/instances/${enc(ref)}/stop`, { query: { grace: graceMs === undefined ? undefined : `${graceMs}ms` } });
  remove = (ref: string, graceful: boolean) => this.nothing("DELETE", `/instances/${enc(ref)}`, { query: { graceful_shutdown: graceful } });

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
    let response: Response;
    try {
      response = await fetch(url, init);
    } catch (cause) {
      throw this.unreached(cause);
    }
    if (response.ok) return response;
    throw await refused(response, `${method} ${path}`);
  }

  private unreached(cause: unknown): CliError {
    if (/closed|reset/i.test(codeOf(cause))) return new CliError(`Cannot go on: the daemon at ${this.address} broke the connection off; its log says more`, "connection");
    return new CliError(`Cannot reach the daemon at ${this.address}: ${reason(cause)}; is \`dormouse serve\` running there? (--host or DORMOUSE_HOST names another address)`, "connection");
  }
}

async function refused(response: Response, what: string): Promise<CliError> {
  const body: unknown = await response.json().catch(() => null); // an answer of somebody else's server: its status says enough
  if (typeof body === "object" && body !== null && "message" in body && "code" in body) return new CliError(String(body.message), String(body.code));
  return new CliError(`Cannot do ${what}: the server answered ${response.status} ${response.statusText}; is it a Dormouse daemon?`, "protocol");
}

const codeOf = (cause: unknown): string => String((cause as { code?: unknown }).code ?? "");

function reason(cause: unknown): string {
  if (/refused/i.test(codeOf(cause))) return "connection refused";
  if (/closed|reset/i.test(codeOf(cause))) return "it was closed";
  if (codeOf(cause) === "ENOTFOUND") return "there is no host of this name";
  // The runtime's own texts guess at typing errors; the system's name for it says more.
  if (/^E[A-Z]+$/.test(codeOf(cause))) return codeOf(cause);
  return cause instanceof Error ? cause.message : String(cause);
}
