// The one table from our error codes to HTTP: status, the contract's snake_case code, and what a client may do.
// Routes throw a DormouseError (`orThrow`); the app's error hook answers with it here. Nothing else makes error bodies.
import { type Static, Type } from "@sinclair/typebox";
import { DormouseError, type ErrorCode, type Res } from "../errors.ts";

interface WireError {
  readonly status: number;
  readonly code: string;
  /** Where the same request may well succeed a little later, unless the error itself says when. */
  readonly retryAfterMs?: number;
}

export const WIRE_ERRORS: Readonly<Record<ErrorCode, WireError>> = {
  "request.bad": { status: 400, code: "bad_request" },
  "request.unauthorized": { status: 401, code: "unauthorized" },
  "request.forbidden": { status: 403, code: "forbidden" },
  "request.not_supported": { status: 400, code: "not_supported" },
  "request.not_implemented": { status: 501, code: "not_implemented" },
  "request.no_route": { status: 404, code: "not_found" },
  "request.too_large": { status: 413, code: "bad_request" },
  "name.invalid": { status: 400, code: "invalid_name" },
  "name.taken": { status: 409, code: "name_conflict" },
  "name.ambiguous": { status: 409, code: "ambiguous" },
  "size.invalid": { status: 400, code: "invalid_size" },
  "platform.invalid": { status: 400, code: "invalid_platform" },
  "image.not_found": { status: 404, code: "image_not_found" },
  "image.not_ready": { status: 400, code: "image_not_ready" },
  "image.in_use": { status: 409, code: "in_use" },
  "image.pull_failed": { status: 502, code: "pull_failed" },
  "image.convert_failed": { status: 400, code: "convert_failed" },
  "image.too_large": { status: 400, code: "image_too_large" },
  // Not 401: it is the registry that refused, and not this API.
  "registry.unauthorized": { status: 400, code: "registry_unauthorized" },
  "registry.unreachable": { status: 502, code: "registry_unreachable" },
  "registry.protocol": { status: 502, code: "registry_protocol" },
  "instance.not_found": { status: 404, code: "not_found" },
  "instance.already_exists": { status: 409, code: "already_exists" },
  "instance.invalid_state": { status: 409, code: "invalid_state" },
  "instance.in_standby": { status: 409, code: "instance_in_standby" },
  "instance.agent_unreachable": { status: 503, code: "agent_unreachable", retryAfterMs: 500 },
  "instance.start_failed": { status: 500, code: "start_failed" },
  "log.not_found": { status: 404, code: "log_not_found" },
  "snapshot.not_found": { status: 404, code: "not_found" },
  "snapshot.damaged": { status: 409, code: "snapshot_damaged" },
  "snapshot.incompatible": { status: 409, code: "snapshot_incompatible" },
  "volume.not_found": { status: 404, code: "not_found" },
  "volume.already_exists": { status: 409, code: "already_exists" },
  "volume.in_use": { status: 409, code: "in_use" },
  "volume.missing": { status: 409, code: "volume_missing" },
  "volume.unclean": { status: 409, code: "volume_unclean" },
  "volume.archive_invalid": { status: 400, code: "invalid_archive" },
  "volume.archive_too_large": { status: 400, code: "archive_too_large" },
  "ingress.not_found": { status: 404, code: "not_found" },
  "ingress.already_exists": { status: 409, code: "already_exists" },
  // 400: the body names an instance that is not there; the ingress is what the path is about.
  "ingress.target_not_found": { status: 400, code: "instance_not_found" },
  "hostname.taken": { status: 409, code: "hostname_in_use" },
  "port.taken": { status: 409, code: "port_in_use" },
  conflict: { status: 409, code: "conflict" },
  "resources.insufficient": { status: 409, code: "insufficient_resources" },
  "host.kvm_missing": { status: 503, code: "kvm_missing" },
  "host.kvm_unable": { status: 503, code: "kvm_unable" },
  "host.network": { status: 500, code: "host_network" },
  "host.storage": { status: 500, code: "host_storage" },
  "host.process": { status: 500, code: "host_process" },
  internal: { status: 500, code: "internal_error" },
};

/** Every error body of the API. */
export const ErrorBody = Type.Object(
  {
    code: Type.String({ description: "For programs; snake_case.", examples: ["not_found"] }),
    message: Type.String({ description: "For people: what could not be done, to what, why, and what to do." }),
    details: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { description: "For programs; depends on the code." })),
  },
  { title: "Error" },
);
export type ErrorBody = Static<typeof ErrorBody>;

/** The value, or its error thrown for the app's error hook. */
export function orThrow<T>(result: Res<T>): T {
  if (result.isErr()) throw result.error;
  return result.value;
}

/** `throw bad("…")`: the request itself is at fault. `field` is named in the details. */
export const bad = (message: string, field?: string): DormouseError =>
  new DormouseError("request.bad", message, field === undefined ? {} : { details: { field } });

/**
 * The contract's client repeats 408, 409, 429 and every 5xx unless told otherwise, and has no idempotency key:
 * so each error says whether repeating helps (`x-should-retry`), and when (`retry-after-ms`).
 */
export function errorResponse(error: DormouseError): Response {
  const wire = WIRE_ERRORS[error.code];
  const body: ErrorBody = { code: wire.code, message: error.message };
  if (error.details !== undefined) body.details = error.details;
  const retryAfterMs = error.retryAfterMs ?? wire.retryAfterMs;
  const headers: Record<string, string> = { "x-should-retry": String(retryAfterMs !== undefined) };
  if (retryAfterMs !== undefined) headers["retry-after-ms"] = String(retryAfterMs);
  // Or its sender could go on for ever.
  if (error.code === "request.too_large") headers["connection"] = "close";
  return Response.json(body, { status: wire.status, headers });
}

/** What a framework or a bug threw, as an error that shows nothing of the inside nor of the submitted values. */
export function toDormouseError(code: string | number, error: unknown, request: Request): DormouseError {
  if (error instanceof DormouseError) return error;
  switch (code) {
    case "VALIDATION":
      return validationError(error);
    case "PARSE":
      // What our own body reader threw arrives wrapped.
      if (error instanceof Error && error.cause instanceof DormouseError) return error.cause;
      return bad("Cannot read the request body: it is not valid JSON.");
    case "NOT_FOUND":
      return new DormouseError("request.no_route", `Cannot find ${request.method} ${new URL(request.url).pathname}: there is no such route. See /swagger.`);
    default:
      return new DormouseError("internal", "Cannot answer this request: an internal error, which the daemon's log has in full.", { cause: error });
  }
}

/** Where TypeBox's own words say little. */
const RULES: Readonly<Record<string, string>> = {
  "Unexpected property": "there is no such field",
  "Expected required property": "it is required",
  "Expected integer": "it must be a whole number",
  "Expected string": "it must be a string",
  "Expected boolean": "it must be true or false",
  "Expected object": "it must be an object",
  "Expected array": "it must be a list",
};

interface Violation {
  readonly path: string;
  readonly message: string;
  readonly schema?: { readonly anyOf?: readonly { readonly const?: unknown }[] };
  /** Of a union: what is wrong by each of its members. */
  readonly errors?: readonly Iterable<Violation>[];
}

/** Names the first field at fault and the rule, in TypeBox's words, which never contain the value. */
function validationError(error: unknown): DormouseError {
  const { type, all } = error as { type?: string; all?: readonly Partial<Violation>[] };
  if (type === "response") return new DormouseError("internal", "Cannot answer this request: the answer is not as documented.", { cause: error });
  const first = innermost(all?.find((one): one is Violation => typeof one.path === "string"));
  const field = fieldName(first?.path ?? "");
  const rule = choice(first) ?? RULES[first?.message ?? ""] ?? (first?.message ?? "not as documented").replace(/^Expected string to match '(.*)'$/, "it must match $1").replace(/^Expected/, "expected");
  return bad(field === "" ? `Cannot accept the request body: ${rule}.` : `Cannot accept field ${field}: ${rule}.`, field === "" ? undefined : field);
}

/** Where it is one of a few words that was wanted: which. */
function choice(violation: Violation | undefined): string | null {
  const words = violation?.schema?.anyOf?.flatMap((member) => (typeof member.const === "string" ? [member.const] : [])) ?? [];
  return words.length === 0 ? null : `it must be one of ${words.join(", ")}`;
}

/** Inside of a union, the member that took the value until something deeper in it was wrong: not `null` for an object. Else its first, which is what it is about. */
function innermost(found: Violation | undefined): Violation | undefined {
  if (choice(found) !== null) return found;
  const members = (found?.errors ?? []).flatMap((member) => [...member].slice(0, 1));
  const meant = members.find((one) => one.path.length > (found?.path.length ?? 0)) ?? members[0];
  return meant === undefined ? found : innermost(meant);
}

/** `/port_mappings/0/guest_port` → `port_mappings[0].guest_port`. */
function fieldName(pointer: string): string {
  return pointer
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    .reduce((name, part) => (/^\d+$/.test(part) ? `${name}[${part}]` : name === "" ? part : `${name}.${part}`), "");
}
