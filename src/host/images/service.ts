// What the image domain offers to routes and instances. Implemented in this folder (images.ts).
import type { AsyncRes, Res } from "../../errors.ts";

export type ImageStatus = "pending" | "pulling" | "converting" | "ready" | "failed";

/** What an image's configuration says about running it (OCI image-spec, config.md). */
export interface ImageConfig {
  readonly entrypoint: readonly string[] | null;
  readonly cmd: readonly string[] | null;
  /** `K=V`, in order. */
  readonly env: readonly string[];
  readonly workingDir: string | null;
  /** As written in the image: `uid`, `uid:gid`, `name`, `name:group`; null is root. */
  readonly user: string | null;
  readonly volumes: readonly string[];
  readonly stopSignal: string | null;
  readonly exposedPorts: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

/** One tag (or digest reference) on record. */
export interface ImageRecord {
  /** Normalized, e.g. `docker.io/library/nginx:latest`. */
  readonly name: string;
  /** Manifest digest `sha256:…`; empty until resolved. */
  readonly digest: string;
  readonly status: ImageStatus;
  readonly error: string | null;
  /** `linux/amd64`. */
  readonly platform: string;
  readonly config: ImageConfig | null;
  /** Bytes of the EROFS image; null until ready. */
  readonly sizeBytes: number | null;
  readonly queuePosition: number | null;
  readonly tags: Readonly<Record<string, string>>;
  readonly createdAt: number;
  /** 0 to 1 of the current step, where it is known. */
  readonly progress: { readonly doneBytes: number; readonly totalBytes: number } | null;
}

export interface PullCredentials { readonly username?: string; readonly password?: string; readonly identityToken?: string; readonly registryToken?: string }

export interface PullRequest {
  readonly name: string;
  readonly platform?: string;
  readonly credentials?: PullCredentials;
  readonly tags?: Readonly<Record<string, string>>;
}

/** A ready image as an instance uses it. */
export interface ReadyImage { readonly record: ImageRecord; readonly config: ImageConfig; readonly rootfsPath: string }

export interface ImageService {
  /**
   * Records the image and starts its pull in the background (one flight a digest); answers with the record at once.
   * An image that is ready already, under the digest that the registry names now, is answered `ready`.
   */
  pull(request: PullRequest): AsyncRes<ImageRecord>;
  /** Loads from an OCI layout folder or a `docker save` tar; the same states. */
  load(path: string, name?: string): AsyncRes<ImageRecord>;
  list(filter?: { tags?: Readonly<Record<string, string>> }): ImageRecord[];
  /** By any reference that Docker would take, or by digest. */
  get(name: string): Res<ImageRecord>;
  /** Refuses with `image.in_use` while an instance refers to it. */
  remove(name: string): AsyncRes<void>;
  tag(name: string, target: string): Res<ImageRecord>;
  /** Resolves to the record once it is `ready` or `failed`; `onChange` sees each change before. */
  settled(name: string, onChange?: (record: ImageRecord) => void): AsyncRes<ImageRecord>;
  /** `image.not_found` or `image.not_ready` unless it is ready. */
  ready(name: string): Res<ReadyImage>;
  /** Bytes on disk: blobs and root file systems. */
  usage(): { readonly blobBytes: number; readonly rootfsBytes: number; readonly images: number };
  /** Stops background work cleanly; interrupted pulls are found again by the next daemon. */
  close(): Promise<void>;
}
