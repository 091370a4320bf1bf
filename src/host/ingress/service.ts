// What the ingress domain offers to routes, and to those who decide whether an instance may sleep.
import type { AsyncRes, Res } from "../../errors.ts";

export const DEFAULT_PORT = 80;

export interface RequestHeaderAuth { readonly header: string; /** A secret: in no message and no log. */ readonly value: string }

/** Requests for `hostname` on `port` go to `targetPort` of `instance`. */
export interface IngressRule {
  /** Small letters; labels may be captures: `{instance}.example.com`. */
  readonly hostname: string;
  readonly port: number;
  /** Name or id of an instance, or a capture of `hostname` as a whole: `{instance}`. */
  readonly instance: string;
  readonly targetPort: number;
  /** Both are refused until TLS is there. */
  readonly tls: boolean;
  readonly redirectHttp: boolean;
  readonly auth: RequestHeaderAuth | null;
}

export interface CreateIngress {
  readonly name: string;
  readonly rules: readonly IngressRule[];
  readonly tags: Readonly<Record<string, string>>;
}

/** Times in milliseconds since the epoch. */
export interface Ingress extends CreateIngress { readonly id: string; readonly createdAt: number }

export interface IngressService {
  /**
   * Answered when its ports listen. `ingress.already_exists`, `hostname.taken`, `port.taken`, `ingress.target_not_found`,
   * `request.bad`, `request.not_supported`.
   */
  create(request: CreateIngress): Res<Ingress>;
  /** What create() has made of the very same request before, or null. */
  made(request: CreateIngress): Ingress | null;
  /** Oldest first; only what has all of `tags`. */
  list(filter?: { readonly tags?: Readonly<Record<string, string>> }): Ingress[];
  /** Exact id, exact name, then unique id prefix; `ingress.not_found`, `name.ambiguous`. */
  get(ref: string): Res<Ingress>;
  /** Requests under way go on; ports that no rule needs any more are closed. */
  remove(ref: string): Res<void>;

  /** Requests and tunnels under way to the instance, held ones too: it is in use. */
  inFlight(instanceId: string): number;
  /** Called with each change of that number. Returns the unsubscribe. */
  subscribe(listener: (instanceId: string, inFlight: number) => void): () => void;
  /** Local ports of connections to the instance that are kept for later requests: nobody uses them now. */
  idleUpstreamPorts(instanceId: string): ReadonlySet<number>;

  /** Takes no more connections, lets answers under way finish for a few seconds, and cuts the rest. */
  close(): Promise<void>;
}

/** What a listener needs for one request; made by the domain, used by the proxy. */
export interface Route { readonly instance: string; /** From the request's host name: exact names and ids only. */ readonly captured: boolean; readonly port: number; readonly auth: RequestHeaderAuth | null }

export type Wake = (ref: string) => AsyncRes<unknown>;
