// `GET /swagger/json`: the OpenAPI document. @elysiajs/swagger collects the routes; what it writes does not validate (no
// descriptions of responses, TypeBox's `$id`, two body types that we refuse, JSON Schema words that 3.0 lacks), so it is put
// right here: as OpenAPI 3.1, whose schemas are JSON Schema.
import { swagger } from "@elysiajs/swagger";
import { type AnyElysia, Elysia } from "elysia";
import { Type } from "@sinclair/typebox";
import { API_VERSION, Capabilities } from "./capabilities.ts";
import type { ErrorCode } from "../errors.ts";
import { ERROR_WORDS } from "./error-words.ts";
import { ErrorBody, WIRE_ERRORS } from "./errors.ts";
import { Health } from "./health.ts";
import { Image } from "./images-schema.ts";
import { IngressSchema } from "./ingresses-schema.ts";
import { PathInfo } from "./instances/copy.ts";
import { InstanceSchema, WaitAnswer } from "./instances/schema.ts";
import { AutoStandbyStatusSchema } from "./instances/sleep-schema.ts";
import { Stats } from "./instances/stats.ts";
import { ScheduleSchema, SnapshotSchema } from "./snapshots/schema.ts";
import { Usage } from "./usage.ts";
import { VolumeSchema } from "./volumes-schema.ts";

/** Schemas that answers refer to by name. */
export const SCHEMAS = {
  Error: ErrorBody,
  Health,
  Capabilities,
  Usage,
  Image,
  Instance: InstanceSchema,
  Volume: VolumeSchema,
  Ingress: IngressSchema,
  PathInfo,
  Stats,
  AutoStandbyStatus: AutoStandbyStatusSchema,
  Snapshot: SnapshotSchema,
  SnapshotSchedule: ScheduleSchema,
  WaitAnswer,
  LogStream: Type.String({ description: "Server-sent events." }),
};

/** In the order of the page; `unimplemented.ts` has the rest. */
const TAGS = [
  { name: "Server", description: "Whether it is well, what it can do, what it takes on disk." },
  { name: "Images", description: "What instances are made from: pulled from registries, and shared by all that run it." },
  { name: "Instances", description: "Virtual machines, each running one image: life, logs, commands, sleep, forks." },
  { name: "Snapshots", description: "Memory and disk of instances, kept by hand or by the clock; restored in place, or forked into new instances." },
  { name: "Volumes", description: "Disks that outlive the instances they are attached to." },
  { name: "Ingresses", description: "Host names that lead to instances, over HTTP." },
];

interface Operation {
  readonly [key: string]: unknown;
  parameters?: { name: string; in: string }[];
  requestBody?: { required: boolean; content: Record<string, unknown> };
  "x-body-example"?: unknown;
  "x-body-required"?: boolean;
  "x-body-type"?: string;
}
type Document = { openapi: string; paths: Record<string, Record<string, Operation>>; components: unknown; [key: string]: unknown };

/** The document of `routes`; slow enough (some 20 ms) to be made once, on demand. */
export async function openApiDocument(routes: AnyElysia): Promise<Document> {
  const info = { title: "Dormouse", version: API_VERSION, description: intro() };
  const app = new Elysia({ normalize: false }).use(swagger({ path: "/docs", specPath: "/json", documentation: { info, tags: TAGS } })).use(routes);
  const raw = (await (await app.handle(new Request("http://localhost/json"))).json()) as Document;
  for (const operations of Object.values(raw.paths)) for (const operation of Object.values(operations)) mendBody(operation);
  const paths = Object.fromEntries(Object.entries(raw.paths).map(([path, item]) => [path.length > 1 ? path.replace(/\/$/, "") : path, item]));
  return { ...raw, openapi: "3.1.0", paths, components: { schemas: structuredClone(SCHEMAS) } };
}

function mendBody(operation: Operation): void {
  const { requestBody } = operation;
  const type = operation["x-body-type"];
  delete operation["x-body-type"];
  if (type !== undefined) operation.requestBody = { required: true, content: { [type]: { schema: { type: "string", format: "binary" } } } };
  const example = operation["x-body-example"];
  const required = operation["x-body-required"] ?? true;
  delete operation["x-body-example"];
  delete operation["x-body-required"];
  if (requestBody === undefined || type !== undefined) return;
  const json = requestBody.content["application/json"] as object;
  operation.requestBody = { required, content: { "application/json": example === undefined ? json : { ...json, example } } };
}

function intro(): string {
  const rows = [...meaningsByWire()].map(([wire, meanings]) => `| ${wire} | ${meanings.join("; or ")} |`);
  return [
    "Runs OCI images in microVMs on one host. The contract is that of the npm package `@onkernel/hypeman`; deviations are in docs/api-compatibility.md.",
    "Until access control is there, the API binds loopback only and takes any bearer token. Wherever an id goes, an exact name or a unique prefix of the id will do. Unknown fields and parameters are refused.",
    [
      "## Sleep and wake",
      "`standby` saves a running instance to disk as it is and ends the process that ran it: from then on it costs disk and nothing else. `restore` brings it back where it was, with the time of now. With `auto_standby` it goes to sleep by itself once no connection was open for `idle_timeout`, and wakes when somebody knocks: a new TCP connection or a UDP packet to its address or a published port, an exec, a copy of files, a request through an ingress. `auto-standby/status` tells why it is awake, `auto-standby/hold` keeps it so for a while.",
      "A snapshot keeps memory and disk under a name, apart from the instance; it can be restored in place or forked into new instances, and a schedule takes them by itself. A fork has its own name, address and random numbers, and shares memory and disk with what it came from until one of them changes it.",
    ].join("\n\n"),
    [
      "## Volumes and files",
      "A volume is a disk of its own: `POST /volumes` makes an empty one, `POST /volumes/from-archive` one with what a tar.gz holds. An instance gets it by `volumes` of its create, or while it is stopped. One instance writes it, or any number read it, each with an `overlay` for what it writes where it wants one. It outlives them all.",
      "`cp` copies files and folders in and out of a running instance over a WebSocket, `stat` looks at a path. Both wake one that sleeps, where its policy has requests wake it.",
    ].join("\n\n"),
    "## Errors\nEvery error is `{\"code\",\"message\",\"details\"}`. `x-should-retry` says whether repeating the same request can help, `retry-after-ms` when.",
    `<details><summary>All codes</summary>\n\n| code | status | repeating helps, unless the answer says otherwise | what it means |\n|---|---|---|---|\n${rows.join("\n")}\n\n</details>`,
  ].join("\n\n");
}

/** `code` and status → all that they can mean. */
function meaningsByWire(): Map<string, string[]> {
  const meanings = new Map<string, string[]>();
  for (const [cause, { code, status, retryAfterMs }] of Object.entries(WIRE_ERRORS)) {
    const wire = `\`${code}\` | ${status} | ${retryAfterMs === undefined ? "no" : `after ${retryAfterMs} ms`}`;
    meanings.set(wire, [...(meanings.get(wire) ?? []), ERROR_WORDS[cause as ErrorCode].means]);
  }
  return meanings;
}
