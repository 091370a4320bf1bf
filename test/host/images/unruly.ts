// A registry of ours that does whatever a test wants: it answers by the rules, unless a rule of the test answers first.
import type { Server } from "bun";
import { sha256 } from "./mounted.ts";
import type { TinyImage } from "./harness.ts";

export interface Asked { readonly path: string; readonly range: string | null; readonly authorization: string | null; readonly url: URL; readonly request: Request }
/** An answer, or null to let the registry answer as it should. `count` is how often this path was asked before. */
export type Rule = (asked: Asked, count: number) => Response | null | Promise<Response | null>;

const INDEX = "application/vnd.oci.image.index.v1+json", MANIFEST = "application/vnd.oci.image.manifest.v1+json";

export class Unruly {
  /** Paths asked for, in order. */
  readonly asked: string[] = [];
  rule: Rule;
  private readonly server: Server<undefined>;
  private readonly manifests = new Map<string, { bytes: Uint8Array; type: string }>();
  private readonly blobs = new Map<string, Uint8Array>();

  constructor(image: TinyImage | null = null, rule: Rule = () => null) {
    this.rule = rule;
    if (image !== null) this.add("latest", image);
    this.server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 255, fetch: (request) => this.answer(request) });
  }

  get host(): string { return `127.0.0.1:${this.server.port}`; }
  get url(): string { return `http://${this.host}`; }
  /** `…/x/y`, without a tag. */
  get repository(): string { return `${this.host}/x/y`; }

  add(tag: string, image: TinyImage): void {
    for (const [digest, bytes] of image.blobs) this.blobs.set(digest, bytes);
    this.put(tag, image.manifest, MANIFEST);
  }

  /** A manifest or index under a tag and its digest. */
  put(tag: string, bytes: Uint8Array, type: string): string {
    this.manifests.set(tag, { bytes, type });
    this.manifests.set(sha256(bytes), { bytes, type });
    return sha256(bytes);
  }

  putIndex(tag: string, entries: readonly { digest: string; size: number; platform?: object }[]): string {
    return this.put(tag, Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: entries.map((entry) => ({ mediaType: MANIFEST, ...entry })) })), INDEX);
  }

  private async answer(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const count = this.asked.filter((path) => path === url.pathname).length;
    this.asked.push(url.pathname);
    const ruled = await this.rule({ path: url.pathname, range: request.headers.get("range"), authorization: request.headers.get("authorization"), url, request }, count);
    return ruled ?? this.byTheRules(url.pathname, request.headers.get("range"));
  }

  private byTheRules(path: string, range: string | null): Response {
    const [, kind, reference = ""] = /^\/v2\/x\/y\/(manifests|blobs)\/(.+)$/.exec(path) ?? [];
    if (kind === "manifests") {
      const found = this.manifests.get(reference);
      return found === undefined ? new Response("{}", { status: 404 }) : new Response(found.bytes.slice(), { headers: { "content-type": found.type, "docker-content-digest": sha256(found.bytes) } });
    }
    const blob = this.blobs.get(reference);
    if (kind === undefined || blob === undefined) return new Response("{}", { status: 404 });
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    if (from === 0) return new Response(blob.slice());
    return new Response(blob.slice(from), { status: 206, headers: { "content-range": `bytes ${from}-${blob.length - 1}/${blob.length}` } });
  }

  async [Symbol.asyncDispose](): Promise<void> { await this.server.stop(true); }
}
