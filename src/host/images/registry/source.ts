// An image in a registry, as a source.
import { choosePlatform, parseManifest, type Descriptor } from "../manifest.ts";
import { DormouseError } from "../../../errors.ts";
import type { ImageFiles } from "../files.ts";
import type { ImageLimits } from "../limits.ts";
import { apiOrigin, formatReference, type Reference } from "../reference.ts";
import type { ImageSource, Resolved } from "../source.ts";
import { RegistryClient, type ManifestBytes } from "./client.ts";
import type { Credentials } from "./credentials.ts";
import { downloadBlob } from "./download.ts";

/** An index may name an index; deeper than this nobody nests. */
const MAX_NESTING = 3;

export interface RegistrySourceOptions { readonly credentials: Credentials; readonly insecure: readonly string[]; readonly limits: ImageLimits; readonly files: ImageFiles }

export class RegistrySource implements ImageSource {
  readonly repository: string;
  private readonly client: RegistryClient;
  private readonly what: string;
  private top: ManifestBytes | null = null;

  constructor(private readonly ref: Reference, private readonly options: RegistrySourceOptions) {
    this.repository = `${ref.host}/${ref.repository}`;
    this.what = formatReference(ref);
    this.client = new RegistryClient(apiOrigin(ref.host, options.insecure), ref.repository, options.credentials, options.limits);
  }

  /** What the registry has under the name now: one request, answered from memory after that. */
  async lookUp(signal: AbortSignal): Promise<ManifestBytes> {
    return (this.top ??= await this.client.manifest(this.ref.digest ?? this.ref.tag ?? "latest", signal));
  }

  async resolve(signal: AbortSignal): Promise<Resolved> {
    const top = await this.lookUp(signal);
    let at = top;
    for (let depth = 0; depth <= MAX_NESTING; depth++) {
      const parsed = parseManifest(at.bytes, at.contentType, this.what, this.options.limits);
      if (parsed.kind === "manifest") return { digest: at.digest, resolved: top.digest, manifest: parsed, manifestBytes: at.bytes, what: this.what };
      at = await this.client.manifest(choosePlatform(parsed, this.what).digest, signal);
    }
    throw new DormouseError("registry.protocol", `Cannot use ${this.what}: its indexes name indexes without end`);
  }

  bring(blob: Descriptor, signal: AbortSignal, onBytes: (done: number) => void): Promise<void> {
    return downloadBlob(this.client, this.options.files, blob, signal, onBytes);
  }

  close(): void {
    // Connections are the runtime's.
  }
}
