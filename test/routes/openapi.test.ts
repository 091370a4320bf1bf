import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import type { TSchema } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { SCHEMAS } from "../../src/routes/openapi.ts";
import { freePort } from "../host/ingress/world.ts";
import { type Api, json, startApi } from "./harness.ts";

interface Operation {
  readonly tags: readonly string[];
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
  readonly parameters: readonly { name: string; in: string; description?: string }[];
  readonly requestBody?: { required: boolean; content: Record<string, { schema: TSchema; example?: unknown }> };
  readonly responses: Record<string, { description: string; content?: Record<string, { schema: { $ref?: string; items?: { $ref: string } }; example?: unknown; examples?: Record<string, { value: unknown }> }> }>;
}
type Document = { openapi: string; paths: Record<string, Record<string, Operation>> };

let api: Api;
let document: Document;
let operations: [string, Operation][];
beforeAll(async () => {
  api = startApi();
  document = (await (await fetch(`${api.url}/swagger/json`)).json()) as Document;
  operations = Object.entries(document.paths).flatMap(([path, item]) => Object.entries(item).map(([method, one]): [string, Operation] => [`${method.toUpperCase()} ${path}`, one]));
});
afterAll(() => api.stop());

const schemaOf = (ref: string) => SCHEMAS[ref.replace("#/components/schemas/", "") as keyof typeof SCHEMAS] as TSchema;

describe("GET /swagger/json", () => {
  test("is valid OpenAPI 3.1", async () => {
    expect(document.openapi).toBe("3.1.0");
    expect(await new Validator().validate(document as unknown as string)).toMatchObject({ valid: true });
  });
  test("describes every route: words, parameters, answers and errors", () => {
    expect(operations.length).toBeGreaterThan(60);
    expect(new Set(operations.map(([, { operationId }]) => operationId)).size).toBe(operations.length);
    for (const [name, { tags, summary, description, parameters, responses }] of operations) {
      expect({ name, tags: tags.length, summary: summary !== "", description: description !== "" }).toEqual({ name, tags: 1, summary: true, description: true });
      for (const [, key = ""] of name.matchAll(/\{(\w+)\}/g)) expect(parameters.filter((one) => one.in === "path" && one.name === key)).toHaveLength(1);
      expect(Object.keys(responses)).toContain("400");
    }
  });
  test("its examples keep to its schemas", () => {
    for (const [name, { requestBody, responses }] of operations) {
      const body = requestBody?.content["application/json"];
      if (body !== undefined) expect({ name, example: body.example !== undefined && Value.Check(plain(body.schema), body.example) }).toEqual({ name, example: true });
      for (const [status, { content = {} }] of Object.entries(responses)) {
        for (const { schema, example, examples } of Object.values(content)) {
          for (const shown of examples === undefined ? [example] : Object.values(examples).map(({ value }) => value)) {
            const [one, ref] = schema.$ref === undefined ? [(shown as unknown[] | undefined)?.[0], schema.items?.$ref] : [shown, schema.$ref];
            expect({ name, status, fits: Value.Check(checkable(schemaOf(ref as string)), one) }).toEqual({ name, status, fits: true });
          }
        }
      }
    }
  });
  test("each error says what it means, with a message as example; a route's own come before those of all", () => {
    for (const [name, { responses }] of operations) for (const [status, { description, content }] of Object.entries(responses)) {
      if (Number(status) < 400) continue;
      const examples = Object.entries(content?.["application/json"]?.examples ?? {});
      expect({ name, status, examples }).toEqual({ name, status, examples: examples.map(([code]) => [code, { value: { code, message: expect.stringMatching(/\S+ \S+/) } }]) });
      const codes = description.split("\n").map((line) => /^- `([a-z_]+)`: \S/.exec(line)?.[1]);
      expect({ name, status, codes: [...new Set(codes)] }).toEqual({ name, status, codes: examples.map(([code]) => code) });
    }
    const of = (status: string) => Object.keys(document.paths["/instances/{id}/standby"]!["post"]!.responses[status]!.content!["application/json"]!.examples!);
    expect([of("409"), of("500")]).toEqual([["invalid_state", "conflict", "ambiguous"], ["host_storage", "host_process", "internal_error"]]);
  });
  test("forms of lists begin without a filter, so that what is there is listed", () => {
    const lists = operations.filter(([name]) => /^GET \/[a-z]+$/.test(name) && !name.endsWith("/health"));
    const begun = lists.flatMap(([name, { parameters }]) => parameters.map((one) => `${name} ${one.name}: ${JSON.stringify((one as { example?: unknown }).example)}`));
    expect(begun.length).toBeGreaterThan(5);
    expect(begun.filter((one) => !/: (undefined|\{\})$/.test(one))).toEqual([]);
  });
  test("answers are as described", async () => {
    api.images.add("nginx");
    const { id } = await api.client.instances.create({ name: "web", image: "nginx", tags: { a: "b" } });
    const auth = { header: "X-Key", value: "0123456789abcdef0123456789abcdef" };
    await api.client.ingresses.create({ name: "site", rules: [{ match: { hostname: "a.example.com", port: freePort() }, target: { instance: "web", port: 80 }, request_header_auth: auth }] });
    await api.client.volumes.create({ name: "data", size_gb: 1, tags: { a: "b" } });
    api.volumes.attach({ kind: "instance", id }, [{ volumeId: "data", mountPath: "/data", readonly: true, overlayBytes: null }])._unsafeUnwrap();
    api.instances.change(id, { state: "Stopped", exitCode: 1, exitMessage: "exited with status 1" });
    await api.client.instances.create({ name: "idle", image: "nginx", auto_standby: { enabled: true, idle_timeout: "5m" }, snapshot_policy: { compression: { enabled: true } } });
    const { id: snapshot } = await api.client.instances.snapshots.create(id, { kind: "Stopped", name: "one", compression: { enabled: true } });
    await api.client.instances.snapshotSchedule.update(id, { interval: "1h", retention: { max_count: 3 } });
    const seen: [string, string, RequestInit?][] = [
      ["Health", "/health"], ["Capabilities", "/capabilities"], ["Usage", "/usage"], ["Ingress", "/ingresses/site"], ["Volume", "/volumes/data"], ["Image", "/images/nginx"], ["Image", "/images", json({ name: "redis" })],
      ["Instance", "/instances/web"], ["Stats", "/instances/web/stats"], ["WaitAnswer", "/instances/web/wait?state=Stopped"], ["Error", "/instances/nobody"], ["Error", "/instances", json({ x: 1 })],
      ["Instance", "/instances/idle"], ["AutoStandbyStatus", "/instances/idle/auto-standby/status"], ["Snapshot", `/snapshots/${snapshot}`], ["SnapshotSchedule", "/instances/web/snapshot-schedule"],
      ["Instance", "/instances/web/fork", json({ name: "two" })], ["Snapshot", "/instances/web/snapshots", json({ kind: "Stopped" })],
    ];
    for (const [schema, path, init] of seen) {
      const body: unknown = await (await fetch(api.url + path, init)).json();
      expect({ path, errors: [...Value.Errors(checkable(schemaOf(schema)), body)].map((error) => error.path) }).toEqual({ path, errors: [] });
    }
  });
});

describe("GET /swagger", () => {
  test("asks no other host for anything", async () => {
    const page = await fetch(`${api.url}/swagger`);
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
    const html = await page.text();
    expect(html).not.toMatch(/https?:\/\//);
    for (const [, path = ""] of html.matchAll(/(?:src|href)="(\/[^"]+)"/g)) {
      const part = await fetch(api.url + path);
      expect([path, part.status]).toEqual([path, 200]);
    }
  });
});

/** A schema without formats, which the checker knows none of, and closed, so that an answer with more than is described fails. */
function checkable(schema: TSchema): TSchema {
  const walk = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(walk);
    if (typeof value !== "object" || value === null) return value;
    const copy: Record<string | symbol, unknown> = {};
    for (const key of Reflect.ownKeys(value)) if (key !== "format" || typeof Reflect.get(value, key) !== "string") copy[key] = walk(Reflect.get(value, key));
    if (copy["type"] === "object" && copy["properties"] !== undefined) copy["additionalProperties"] = false;
    return copy;
  };
  return walk(schema) as TSchema;
}

/** A schema of the document, which lost TypeBox's own marks on the wire: only what it requires and allows by name is looked at. */
function plain(schema: TSchema): TSchema {
  return { ...schema, [Symbol.for("TypeBox.Kind")]: "Object", properties: Object.fromEntries(Object.keys(schema["properties"] as object).map((key) => [key, { [Symbol.for("TypeBox.Kind")]: "Unknown", [Symbol.for("TypeBox.Optional")]: "Optional" }])) } as unknown as TSchema;
}
