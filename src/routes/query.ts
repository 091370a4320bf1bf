// Query strings, read from the raw URL: the framework drops `tags[team]=x` (deepObject) silently, and nothing here may be
// accepted and forgotten. One table a route both reads the query and documents it.
import type { TSchema } from "@sinclair/typebox";
import { bad } from "./errors.ts";

/** One query parameter: its schema and words for the documentation, and how its text becomes a value. */
export interface Param<T> {
  readonly schema: TSchema | Record<string, unknown>;
  readonly description: string;
  /** Stands in the form of the documentation's page before anybody has typed: a filter has none, or it would hide all that is there. */
  readonly example?: unknown;
  /** Present where `name[key]=value` repeats into a record. */
  readonly deep?: true;
  readonly required?: true;
  /** Undefined text: the parameter is absent. */
  read(text: string | undefined, name: string): T;
}
export type Params<T> = { readonly [K in keyof T]: Param<T[K]> };

export function booleanParam(fallback: boolean, description: string): Param<boolean> {
  return {
    schema: { type: "boolean", default: fallback },
    description,
    read: (text, name) => {
      if (text === undefined || text === "") return fallback;
      if (text === "true") return true;
      if (text === "false") return false;
      throw bad(`Cannot read query parameter ${name}: it must be true or false.`, name);
    },
  };
}

export function integerParam(fallback: number, min: number, max: number, description: string): Param<number> {
  return {
    schema: { type: "integer", minimum: min, maximum: max, default: fallback },
    description,
    read: (text, name) => {
      if (text === undefined || text === "") return fallback;
      const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
      if (value >= min && value <= max) return value;
      throw bad(`Cannot read query parameter ${name}: it must be a whole number from ${min} to ${max}.`, name);
    },
  };
}

/** One of a closed list; `fallback` null makes it required, undefined leaves it absent. */
export function choiceParam<const V extends string, F extends V | undefined | null>(
  values: readonly V[],
  fallback: F,
  description: string,
  example?: V,
): Param<F extends undefined ? V | undefined : V> {
  return {
    schema: { type: "string", enum: [...values], ...(typeof fallback === "string" ? { default: fallback } : {}) },
    description,
    ...(example === undefined ? {} : { example }),
    ...(fallback === null ? { required: true as const } : {}),
    read: (text, name) => {
      const found = values.find((value) => value === text) ?? (text === undefined || text === "" ? fallback : null);
      if (found === null) throw bad(`Cannot read query parameter ${name}: it must be one of ${values.join(", ")}.`, name);
      return found as F extends undefined ? V | undefined : V;
    },
  };
}

export function textParam<T>(description: string, example: string | undefined, read: (text: string | undefined, name: string) => T): Param<T> {
  return { schema: { type: "string" }, description, example, read };
}

/** `tags[team]=backend&tags[env]=staging`; all must match. */
export const tagsParam: Param<Record<string, string>> = {
  schema: { type: "object", additionalProperties: { type: "string" } },
  description: "Only what has all of these tags: `tags[team]=backend&tags[env]=staging`; as JSON, `{\"team\": \"backend\"}`.",
  example: {},
  deep: true,
  read: () => ({}),
};
/** Of lists that nothing else filters. */
export const tagsQuery = { tags: tagsParam };

/** Reads the whole query of `request` by `params`; an unknown or repeated parameter is refused by name. */
export function readQuery<T extends object>(request: Request, params: Params<T>): T {
  const url = request.url;
  const start = url.indexOf("?");
  const table = params as Readonly<Record<string, Param<unknown>>>;
  const texts = new Map<string, string>();
  const deep = new Map<string, Record<string, string>>();
  for (const [name, text] of new URLSearchParams(start < 0 ? "" : url.slice(start + 1))) {
    const [, base = name, key] = /^([^[\]]+)\[(.*)\]$/s.exec(name) ?? [];
    const param = Object.hasOwn(table, base) ? table[base] : undefined;
    if (param === undefined || (param.deep === true) !== (key !== undefined)) throw bad(`Cannot accept query parameter ${base}: there is no such parameter.`, base);
    if (key === undefined) {
      if (texts.has(name)) throw bad(`Cannot accept query parameter ${name}: it is there twice.`, name);
      texts.set(name, text);
    } else {
      deep.set(base, Object.assign(deep.get(base) ?? Object.create(null), { [key]: text }));
    }
  }
  const out: Record<string, unknown> = {};
  for (const [name, param] of Object.entries(table)) {
    out[name] = param.deep === true ? (deep.get(name) ?? {}) : param.read(texts.get(name), name);
  }
  return out as T;
}

/** `beforeHandle` of routes without parameters. */
export const noQuery = ({ request }: { readonly request: Request }): void => {
  if (request.url.includes("?")) readQuery(request, {});
};

/** The parameters as an OpenAPI operation lists them. */
export function describeQuery<T extends object>(params: Params<T>): Record<string, unknown>[] {
  return Object.entries(params as Readonly<Record<string, Param<unknown>>>).map(([name, param]) => ({
    name,
    in: "query",
    required: param.required === true,
    description: param.description,
    schema: param.schema,
    ...(param.deep === true ? { style: "deepObject", explode: true } : {}),
    ...(param.example === undefined ? {} : { example: param.example }),
  }));
}
