// Words of a route for its OpenAPI operation, in one short form. Responses are documented here and checked against the
// real answers in tests, instead of being validated at each request.
import type { TSchema } from "@sinclair/typebox";
import type { ErrorCode } from "../errors.ts";
import { ERROR_WORDS } from "./error-words.ts";
import { type ErrorBody, WIRE_ERRORS } from "./errors.ts";

interface Answer {
  readonly description: string;
  /** Name of a schema in components, or a schema of its own. */
  readonly schema?: string | TSchema;
  readonly list?: boolean;
  readonly example?: unknown;
  readonly type?: string;
}

export interface Route {
  readonly tag: string;
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
  readonly parameters?: Record<string, unknown>[];
  readonly bodyExample?: unknown;
  /** Media type of a body that is no JSON. */
  readonly bodyType?: string;
  /** False: the body may be absent, empty or null. */
  readonly bodyRequired?: boolean;
  readonly answers: Readonly<Record<number, Answer>>;
  /** Beyond `request.bad`, `request.forbidden` and `internal`, which any route can answer. */
  readonly errors?: readonly ErrorCode[];
}

const ANY_ROUTE: readonly ErrorCode[] = ["request.bad", "request.forbidden", "internal"];

/** Elysia's `detail` of a route. */
export function describe(route: Route) {
  const { tag, operationId, summary, description, answers, errors = [], parameters = [] } = route;
  const responses: Record<string, unknown> = {};
  for (const [status, answer] of Object.entries(answers)) responses[status] = successBody(answer);
  // A route's own errors first: the first of a status is the example that is shown.
  for (const [status, codes] of byStatus([...errors, ...ANY_ROUTE])) responses[status] = errorBody(codes);
  return {
    tags: [tag],
    operationId,
    summary,
    description,
    parameters: [...parameters],
    responses,
    ...(route.bodyExample === undefined ? {} : { "x-body-example": route.bodyExample }),
    ...(route.bodyType === undefined ? {} : { "x-body-type": route.bodyType }),
    ...(route.bodyRequired === undefined ? {} : { "x-body-required": route.bodyRequired }),
  } as unknown as { tags: string[]; summary: string; description: string };
}

/** For routes that have a tag, parameters and errors in common; a route's own come after those. */
export const describeGroup = (tag: string, parameters: NonNullable<Route["parameters"]>, errors: readonly ErrorCode[]) => (route: Omit<Route, "tag">) =>
  describe({ ...route, tag, parameters: [...parameters, ...(route.parameters ?? [])], errors: [...(route.errors ?? []), ...errors] });

/** What any route can answer that names an instance, and any that wakes one. */
export const NAMED: readonly ErrorCode[] = ["instance.not_found", "name.ambiguous"];
export const WAKING: readonly ErrorCode[] = ["instance.agent_unreachable", "instance.start_failed", "snapshot.damaged", "snapshot.incompatible", "volume.missing", "resources.insufficient", "host.network", "host.storage", "host.process"];
export const DELETED = { 204: { description: "Deleted." } } as const;

function successBody({ description, schema, list, example, type = "application/json" }: Answer) {
  if (schema === undefined) return { description };
  const one = typeof schema === "string" ? { $ref: `#/components/schemas/${schema}` } : schema;
  const body = { schema: list === true ? { type: "array", items: one } : one, ...(example === undefined ? {} : { example }) };
  return { description, content: { [type]: body } };
}

function byStatus(codes: readonly ErrorCode[]): Map<number, ErrorCode[]> {
  const grouped = new Map<number, ErrorCode[]>();
  for (const code of new Set(codes)) grouped.set(WIRE_ERRORS[code].status, [...(grouped.get(WIRE_ERRORS[code].status) ?? []), code]);
  return grouped;
}

/** What each code means here, and a message of each to choose from. */
function errorBody(codes: readonly ErrorCode[]) {
  const examples: Record<string, { value: ErrorBody }> = {};
  for (const one of codes) {
    const { code } = WIRE_ERRORS[one];
    examples[code] ??= { value: { code, message: ERROR_WORDS[one].example } };
  }
  const lines = codes.map((one) => `- \`${WIRE_ERRORS[one].code}\`: ${ERROR_WORDS[one].means}`);
  return { description: lines.join("\n"), content: { "application/json": { schema: { $ref: "#/components/schemas/Error" }, examples } } };
}

/** A path parameter's words. */
export const pathParam = (name: string, description: string, example: string) => ({
  name, in: "path", required: true, description, schema: { type: "string" }, example,
});
export const instanceParam = pathParam("id", "Exact id, exact name, or a prefix that only one id has.", "web");
export const imageParam = pathParam("name", "Image reference, percent-encoded (`%2F` for each slash), or digest.", "docker.io/library/nginx:latest");
