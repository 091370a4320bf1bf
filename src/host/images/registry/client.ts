// Pulls from one repository: OCI distribution-spec, "Pulling manifests" and "Pulling blobs" (also Docker's registry API v2).
import { DormouseError } from "../../../errors.ts";
import type { ImageLimits } from "../limits.ts";
import { digestOf, MEDIA } from "../manifest.ts";
import { answerChallenge, parseChallenge, unauthorized } from "./auth.ts";
import type { Credentials } from "./credentials.ts";
import { exchange, protocol, readBody, transientStatus, type Exchange } from "./http.ts";
import { retrying, TransientError } from "./retry.ts";

const ACCEPT = [MEDIA.ociIndex, MEDIA.ociManifest, MEDIA.dockerIndex, MEDIA.dockerManifest].join(", ");

export interface ManifestBytes { readonly bytes: Uint8Array; readonly contentType: string; readonly digest: string }

export class RegistryClient {
  private authorization: string | null = null;
  private readonly origin: URL;

  constructor(origin: string, private readonly repository: string, private readonly credentials: Credentials, private readonly limits: ImageLimits) {
    this.origin = new URL(origin);
  }

  /** By tag or digest; a digest is checked. Throws DormouseError: `image.not_found`, `registry.*`. */
  async manifest(reference: string, signal: AbortSignal): Promise<ManifestBytes> {
    return this.settled(async () => {
      const answer = await this.get(`manifests/${reference}`, { accept: ACCEPT }, signal);
      await this.refuseStatus(answer, `no manifest ${reference}`);
      const bytes = await readBody(answer, this.limits.maxManifestBytes);
      const digest = digestOf(bytes, reference);
      const stated = reference.includes(":") ? reference : answer.response.headers.get("docker-content-digest");
      if (stated !== null && digestOf(bytes, stated) !== stated) throw protocol(this.origin, `the manifest ${reference} has the digest ${digest}, not ${stated}; the registry is broken or lies`);
      return { bytes, contentType: answer.response.headers.get("content-type") ?? "", digest };
    }, signal);
  }

  /**
   * Opens a blob from `offset` on; one attempt. The answer's status is 206 where the server honoured the offset, else 200
   * and the body is the whole blob. Throws TransientError or DormouseError.
   */
  async openBlob(digest: string, offset: number, signal: AbortSignal): Promise<Exchange> {
    const answer = await this.get(`blobs/${digest}`, offset > 0 ? { range: `bytes=${offset}-` } : {}, signal);
    await this.refuseStatus(answer, `no blob ${digest}`);
    return answer;
  }

  /** Repeats an attempt while that can help; in the end the failure is told as the registry's. */
  async settled<T>(attempt: () => Promise<T>, signal: AbortSignal, progress?: () => number): Promise<T> {
    try {
      return await retrying({ limits: this.limits, signal }, attempt, progress);
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      throw new DormouseError("registry.unreachable", `Cannot pull ${this.repository} from ${this.origin.host}: ${error.message}; tried ${this.limits.attempts} times`, { cause: error });
    }
  }

  private async get(path: string, headers: Record<string, string>, signal: AbortSignal): Promise<Exchange> {
    const url = new URL(`/v2/${this.repository}/${path}`, this.origin);
    const options = { limits: this.limits, signal };
    const used = this.authorization;
    const answer = await exchange(url, used === null ? headers : { ...headers, authorization: used }, options);
    // A 401 of the server behind a redirect is not about our credentials.
    if (answer.response.status !== 401 || answer.url.origin !== this.origin.origin) return answer;
    answer.dog.stop();
    await answer.response.body?.cancel();
    // Another request may have got a new token meanwhile.
    if (this.authorization === used) await this.authorize(answer.response.headers.get("www-authenticate"), signal);
    return exchange(url, { ...headers, authorization: this.authorization! }, options);
  }

  private async authorize(header: string | null, signal: AbortSignal): Promise<void> {
    const challenge = parseChallenge(header);
    if (challenge === null) throw unauthorized(this.origin, this.repository, "it refuses us and asks for nothing that we know");
    this.authorization = await answerChallenge(challenge, this.credentials, this.origin, this.repository, { limits: this.limits, signal });
  }

  private async refuseStatus(answer: Exchange, missing: string): Promise<void> {
    const { status, body } = answer.response;
    if (status === 200 || status === 206) return;
    const transient = await transientStatus(answer);
    if (transient !== null) throw transient;
    answer.dog.stop();
    await body?.cancel();
    if (status === 401 || status === 403) {
      // The next attempt starts with a fresh token.
      this.authorization = null;
      throw unauthorized(this.origin, this.repository, `access is denied (status ${status})`);
    }
    if (status === 404) throw new DormouseError("image.not_found", `Cannot pull ${this.repository} from ${this.origin.host}: it has ${missing}`);
    throw protocol(this.origin, `it answered ${status} for ${this.repository}`);
  }
}
