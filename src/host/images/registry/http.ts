// One HTTP exchange with a server that may be slow, large-mouthed or dead: patience, redirects and sizes are bounded.
import { DormouseError, messageOf } from "../../../errors.ts";
import type { ImageLimits } from "../limits.ts";
import { retryAfterMs, TransientError } from "./retry.ts";

export interface HttpOptions { readonly limits: ImageLimits; readonly signal: AbortSignal }

/** Aborts when `poke` was not called for `ms`. */
export class Watchdog {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout>;
  readonly signal: AbortSignal;
  constructor(private readonly ms: number, outer: AbortSignal) {
    this.signal = AbortSignal.any([outer, this.controller.signal]);
    this.timer = this.arm();
  }
  private arm(): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.controller.abort(new TransientError(`the server said nothing for ${this.ms / 1000} s`)), this.ms);
  }
  poke(): void {
    clearTimeout(this.timer);
    this.timer = this.arm();
  }
  stop(): void {
    clearTimeout(this.timer);
  }
}

export interface Exchange { readonly response: Response; readonly url: URL; readonly dog: Watchdog }

/**
 * GET (or POST with a form), redirects followed by hand: at most `maxRedirects`, never from https to http, and the
 * Authorization header stays with its origin. Throws TransientError where repeating can help. The caller ends `dog`.
 */
export async function exchange(start: URL, headers: Record<string, string>, { limits, signal }: HttpOptions, form?: URLSearchParams): Promise<Exchange> {
  const dog = new Watchdog(limits.stallMs, signal);
  try {
    let url = start;
    for (let hops = 0; ; hops++) {
      const response = await send(url, url.origin === start.origin ? headers : withoutAuthorization(headers), dog, form);
      const location = response.headers.get("location");
      if (response.status < 300 || response.status > 399 || location === null) return { response, url, dog };
      await response.body?.cancel();
      if (hops === limits.maxRedirects) throw protocol(start, `it redirects more than ${limits.maxRedirects} times`);
      url = nextUrl(url, location, start);
    }
  } catch (error) {
    dog.stop();
    throw error;
  }
}

async function send(url: URL, headers: Record<string, string>, dog: Watchdog, form: URLSearchParams | undefined): Promise<Response> {
  dog.poke();
  try {
    // Bodies come as they are stored: a server's Content-Encoding must not change what a digest is taken of.
    return await fetch(url.href, { method: form === undefined ? "GET" : "POST", body: form, headers: { "accept-encoding": "identity", ...headers }, redirect: "manual", decompress: false, signal: dog.signal });
  } catch (error) {
    throw failure(url, dog, error);
  }
}

/** What a failed fetch or body means: the watchdog's verdict, or the network's. */
export function failure(url: URL, dog: Watchdog, error: unknown): unknown {
  if (error instanceof DormouseError || error instanceof TransientError) return error;
  if (dog.signal.aborted) return dog.signal.reason;
  return new TransientError(`cannot reach ${url.host}: ${reason(error)}`, null, error);
}

/** Where the runtime's own words guess at typing errors. */
const REASONS: Readonly<Record<string, string>> = { ECONNREFUSED: "connection refused", ConnectionRefused: "connection refused", ECONNRESET: "connection reset", ENOTFOUND: "there is no host of this name" };
const reason = (error: unknown): string => REASONS[String((error as { code?: unknown }).code)] ?? messageOf(error);

function nextUrl(from: URL, location: string, start: URL): URL {
  const next = URL.parse(location, from.href);
  if (next === null || (next.protocol !== "http:" && next.protocol !== "https:")) throw protocol(start, "it redirects to something that is no web address");
  if (from.protocol === "https:" && next.protocol === "http:") throw protocol(start, `it redirects from https to http (${next.host})`);
  return next;
}

const withoutAuthorization = ({ authorization: _, ...rest }: Record<string, string>): Record<string, string> => rest;

export const protocol = (url: URL, why: string): DormouseError => new DormouseError("registry.protocol", `Cannot pull from ${url.host}: ${why}`);

/** TransientError for 408, 429 and 5xx; else null. The body is let go. */
export async function transientStatus({ response, url, dog }: Exchange): Promise<TransientError | null> {
  if (response.status !== 408 && response.status !== 429 && response.status < 500) return null;
  dog.stop();
  await response.body?.cancel();
  return new TransientError(`${url.host} answered ${response.status}`, retryAfterMs(response.headers.get("retry-after")));
}

/** The whole body, at most `max` bytes. Ends the watchdog. */
export async function readBody({ response, url, dog }: Exchange, max: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  try {
    for await (const part of response.body ?? []) {
      dog.poke();
      length += part.length;
      if (length > max) throw protocol(url, `an answer is longer than ${max} bytes`);
      parts.push(part);
    }
    return Buffer.concat(parts);
  } catch (error) {
    throw failure(url, dog, error);
  } finally {
    dog.stop();
  }
}
