// The one error class, its dotted codes, and the Result aliases that cross domain boundaries.
// HTTP statuses and the contract's snake_case codes are mapped from these in src/routes/errors.ts.
import { err, type Result, type ResultAsync } from "neverthrow";

export type ErrorCode =
  | "request.bad"
  | "request.unauthorized"
  | "request.forbidden"
  | "request.not_supported"
  | "request.not_implemented"
  | "request.no_route"
  | "request.too_large"
  | "name.invalid"
  | "name.taken"
  | "name.ambiguous"
  | "size.invalid"
  | "platform.invalid"
  | "image.not_found"
  | "image.not_ready"
  | "image.in_use"
  | "image.pull_failed"
  | "image.convert_failed"
  | "image.too_large"
  | "registry.unauthorized"
  | "registry.unreachable"
  | "registry.protocol"
  | "instance.not_found"
  | "instance.already_exists"
  | "instance.invalid_state"
  | "instance.in_standby"
  | "instance.agent_unreachable"
  | "instance.start_failed"
  | "log.not_found"
  | "snapshot.not_found"
  | "snapshot.damaged"
  | "snapshot.incompatible"
  | "volume.not_found"
  | "volume.already_exists"
  | "volume.in_use"
  | "volume.missing"
  | "volume.unclean"
  | "volume.archive_invalid"
  | "volume.archive_too_large"
  | "ingress.not_found"
  | "ingress.already_exists"
  | "ingress.target_not_found"
  | "hostname.taken"
  | "port.taken"
  | "conflict"
  | "resources.insufficient"
  | "host.kvm_missing"
  | "host.kvm_unable"
  | "host.network"
  | "host.storage"
  | "host.process"
  | "internal";

/**
 * What could not be done, to what, why, and what to do about it, in `message`;
 * `details` is for programs and must hold no secret.
 */
export class DormouseError extends Error {
  override readonly name = "DormouseError";
  constructor(
    readonly code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, unknown>; retryAfterMs?: number } = {},
  ) {
    super(message, { cause: options.cause });
    this.details = options.details;
    this.retryAfterMs = options.retryAfterMs;
  }
  readonly details: Record<string, unknown> | undefined;
  /** Set only where repeating the same request can help. */
  readonly retryAfterMs: number | undefined;
}

export type Res<T> = Result<T, DormouseError>;
export type AsyncRes<T> = ResultAsync<T, DormouseError>;

/** `fail("image.not_found", "Cannot …")`: an Err of the one error class. */
export const fail = (code: ErrorCode, message: string, options?: ConstructorParameters<typeof DormouseError>[2]) =>
  err(new DormouseError(code, message, options));

/** Wraps whatever a library threw, once, at the edge where it was called. */
export function wrap(code: ErrorCode, what: string, cause: unknown): DormouseError {
  if (cause instanceof DormouseError) return cause;
  return new DormouseError(code, `${what}: ${messageOf(cause)}`, { cause });
}

export const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
