// Bodies of the image routes, and how a record of the image domain looks on the wire.
import { type Static, Type } from "@sinclair/typebox";
import type { ImageRecord } from "../host/images/service.ts";
import { formatTime } from "./format.ts";
import { nullable, Reference, Tags, Text, Time } from "./schema.ts";


const Credentials = Type.Object(
  {
    username: Type.Optional(Text("Registry user.")),
    password: Type.Optional(Text("Registry password or access token.")),
    registry_token: Type.Optional(Text("Bearer token for the Authorization header.")),
  },
  { additionalProperties: false, description: "For this one pull; kept in memory, never recorded or logged. Without them, Docker's `config.json` of the daemon's user is asked." },
);

export const CreateImage = Type.Object(
  {
    name: Reference("As Docker writes it: `nginx`, `ghcr.io/a/b:tag`, `127.0.0.1:5000/x@sha256:…`.", "docker.io/library/nginx:latest"),
    credentials: Type.Optional(Credentials),
    platform: Type.Optional(Text("`os/arch[/variant]`; this host runs `linux/amd64`.")),
    tags: Type.Optional(Tags),
  },
  { additionalProperties: false, title: "CreateImage" },
);
export type CreateImage = Static<typeof CreateImage>;

export const LoadImage = Type.Object(
  {
    path: Type.String({ minLength: 1, pattern: "^/", description: "Absolute path, on the daemon's host, of an OCI layout folder or a `docker save` tar." }),
    name: Type.Optional(Reference("To record it under; the archive's own by default.")),
  },
  { additionalProperties: false, title: "LoadImage" },
);

export const TagImage = Type.Object(
  { target: Reference("With a tag that shall mean the same image; nothing is pulled.", "docker.io/library/nginx:stable") },
  { additionalProperties: false, title: "TagImage" },
);

export const Image = Type.Object(
  {
    name: Text("Normalized reference (tag or digest)."),
    digest: Text("Manifest digest; empty until resolved."),
    status: Type.Union(["pending", "pulling", "converting", "ready", "failed"].map((one) => Type.Literal(one))),
    created_at: Time("When it was first asked for."),
    platform: Text("`os/arch[/variant]`."),
    size_bytes: nullable(Type.Integer({ description: "On disk; null until ready." })),
    queue_position: nullable(Type.Integer()),
    error: nullable(Text("Why it failed.")),
    tags: Tags,
    cmd: Type.Optional(nullable(Type.Array(Type.String()))),
    entrypoint: Type.Optional(nullable(Type.Array(Type.String()))),
    env: Type.Optional(Type.Record(Type.String(), Type.String())),
    working_dir: Type.Optional(nullable(Type.String())),
    progress: Type.Union([Type.Object({ done_bytes: Type.Integer(), total_bytes: Type.Integer() }), Type.Null()], {
      description: "Of the current step, where it is known. An extension.",
    }),
  },
  { title: "Image" },
);

/** `K=V` lists as the contract shows them; of a repeated key the last counts, as in a process's environment. */
const envObject = (pairs: readonly string[]): Record<string, string> =>
  Object.fromEntries(pairs.map((pair) => {
    const at = pair.indexOf("=");
    return at < 0 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + 1)];
  }));

export function imageView(record: ImageRecord) {
  const { config, progress } = record;
  return {
    name: record.name,
    digest: record.digest,
    status: record.status,
    created_at: formatTime(record.createdAt),
    platform: record.platform,
    size_bytes: record.sizeBytes,
    queue_position: record.queuePosition,
    error: record.error,
    tags: record.tags,
    ...(config === null
      ? {}
      : { cmd: config.cmd, entrypoint: config.entrypoint, env: envObject(config.env), working_dir: config.workingDir }),
    progress: progress === null ? null : { done_bytes: progress.doneBytes, total_bytes: progress.totalBytes },
  };
}

export const imageExample = {
  name: "docker.io/library/nginx:latest",
  digest: `sha256:${"4c".repeat(32)}`,
  status: "ready",
  created_at: "2026-01-02T03:04:05.000Z",
  platform: "linux/amd64",
  size_bytes: 192_937_984,
  queue_position: null,
  error: null,
  tags: { team: "web" },
  cmd: ["nginx", "-g", "daemon off;"],
  entrypoint: ["/docker-entrypoint.sh"],
  env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
  working_dir: null,
  progress: null,
};
