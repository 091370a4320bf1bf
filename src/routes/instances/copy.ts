// `/instances/{id}/cp` and `/stat`: files of a guest. Logic is the instance domain's.
import { type Static, Type } from "@sinclair/typebox";
import { Elysia } from "elysia";
import type { PathStat } from "../../host/instances/copy-service.ts";
import { CP_V1 } from "../cp-protocol.ts";
import type { ApiDeps } from "../deps.ts";
import { describeGroup, instanceParam, NAMED, WAKING } from "../describe.ts";
import { bad, orThrow } from "../errors.ts";
import { chooseProtocol } from "../live.ts";
import { booleanParam, describeQuery, noQuery, readQuery, textParam } from "../query.ts";
import { Bytes, nullable } from "../schema.ts";
import { awake } from "./awake.ts";
import { CopySocket } from "./copy-socket.ts";

export const PathInfo = Type.Object(
  {
    exists: Type.Boolean({ description: "Whether something is there." }),
    error: Type.Optional(nullable(Type.String({ description: "Why it could not be looked at; `exists` is false then." }))),
    is_dir: Type.Optional(Type.Boolean()),
    is_file: Type.Optional(Type.Boolean({ description: "A regular file; neither this nor the others for FIFOs, sockets and devices." })),
    is_symlink: Type.Optional(Type.Boolean({ description: "Never with `follow_links`." })),
    link_target: Type.Optional(nullable(Type.String())),
    mode: Type.Optional(Type.Integer({ description: "Permissions, with set-id and sticky bits." })),
    size: Type.Optional(Bytes("Of a file; of a symlink, of its target's text.")),
  },
  { title: "PathInfo" },
);
const example: Static<typeof PathInfo> = { exists: true, is_dir: false, is_file: true, is_symlink: false, mode: 0o644, size: 1256 };

const statQuery = {
  path: {
    ...textParam("As the workload sees it; relative ones begin at `/`.", "/etc/hosts", (text, name) => {
      if (text === undefined || text === "") throw bad(`Cannot read query parameter ${name}: it is required.`, name);
      return text;
    }),
    required: true as const,
  },
  follow_links: booleanParam(false, "Look at what a symlink leads to."),
};

const ofInstance = describeGroup("Instances", [instanceParam], [...NAMED, "instance.invalid_state", ...WAKING]);

const statDocs = ofInstance({
  operationId: "statInstancePath",
  summary: "Look at a path in the guest",
  description: "In an instance that is `Running`; one in `Standby` is woken first where its policy lets requests do that.",
  parameters: describeQuery(statQuery),
  answers: { 200: { description: "What is there, or that nothing is.", schema: "PathInfo", example } },
});

const copyDocs = ofInstance({
  operationId: "copyInstanceFiles",
  summary: "Copy files to or from the guest (WebSocket)",
  description: [
    "In an instance that is `Running`; one in `Standby` is woken first where its policy lets requests do that. Paths are as the workload sees them; an open copy keeps the instance awake.",
    "To the guest, one file or folder: text `{\"direction\":\"to\",\"guest_path\":\"/app/x\",\"is_dir\":false,\"mode\":420}` (also `uid`, `gid`), binary frames, text `{\"type\":\"end\"}`. Answer: `{\"type\":\"result\",\"success\":true,\"bytes_written\":N}`, or `success` false with `error`. A file takes its name once it is whole; folders above it are made where they lack.",
    "From the guest, a file or tree: text `{\"direction\":\"from\",\"guest_path\":\"/app\",\"follow_links\":false}`. For each thing, folders first: text `{\"type\":\"header\",\"path\":\"app/x\",\"mode\":420,\"is_dir\":false,\"is_symlink\":false,\"link_target\":\"\",\"size\":N,\"mtime\":S,\"uid\":0,\"gid\":0}`, a file's bytes in binary frames, text `{\"type\":\"end\",\"final\":false}`; the last one's `final` is true. Paths begin with the source's own name. `{\"type\":\"skipped\",\"path\",\"message\"}` names what can't be copied: FIFOs, sockets, devices, the kernel's own file systems. `{\"type\":\"error\",\"message\",\"path\"}` ends a copy that failed.",
    "The client closes. With the subprotocol `dormouse.cp.v1` (an extension) trees go both ways, with symlinks and times: docs/api-compatibility.md.",
  ].join("\n\n"),
  answers: { 101: { description: "The WebSocket is open." } },
});

export const copyRoutes = (deps: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/instances" })
    .get("/:id/stat", ({ params, request }) => statPath(deps, request, params.id), { detail: statDocs })
    .get("/:id/cp", ({ params, request }) => openCopy(deps, request, params.id), { beforeHandle: noQuery, detail: copyDocs });

async function statPath(deps: ApiDeps, request: Request, ref: string): Promise<Response> {
  const { path, follow_links } = readQuery(request, statQuery);
  const { id } = await awake(deps, request, ref, "look at a path in");
  return Response.json(pathInfo(orThrow(await deps.instances.stat(id, { path, followLinks: follow_links }))));
}

async function openCopy(deps: ApiDeps, request: Request, ref: string): Promise<Response> {
  const { instances, live } = deps;
  const { id } = await awake(deps, request, ref, "copy files of");
  live.requireUpgrade(request);
  const protocol = chooseProtocol(request, [CP_V1]);
  return live.upgrade(request, new CopySocket({ open: (wanted, listener) => instances.copy(id, wanted, listener), v1: protocol === CP_V1, closing: live.closing }), protocol);
}

function pathInfo({ entry, error }: PathStat): Static<typeof PathInfo> {
  if (entry === null) return { exists: false, ...(error === null ? {} : { error }) };
  const { kind, target, mode, sizeBytes } = entry;
  return { exists: true, is_dir: kind === "directory", is_file: kind === "file", is_symlink: kind === "symlink", ...(target === null ? {} : { link_target: target }), mode, size: sizeBytes };
}
