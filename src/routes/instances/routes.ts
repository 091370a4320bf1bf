// `/instances`: create, list, get, delete, start, stop, wait, logs, exec and attach. Logic is the instance domain's.
import { Elysia } from "elysia";
import { DormouseError } from "../../errors.ts";
import type { InstanceState } from "../../host/instances/service.ts";
import { optionalBody, requiredBody } from "../body.ts";
import type { ApiDeps } from "../deps.ts";
import { orThrow } from "../errors.ts";
import { EXEC_V1 } from "../exec-protocol.ts";
import { chooseProtocol } from "../live.ts";
import { noQuery, readQuery } from "../query.ts";
import { forgiveRepeat, isRepeat } from "../repeat.ts";
import { awake } from "./awake.ts";
import { checkWords, isSameRequest, toCreateInstance } from "./create.ts";
import * as docs from "./docs.ts";
import { ExecSocket } from "./exec.ts";
import { logsResponse } from "./logs.ts";
import { lifecycle } from "./outcome.ts";
import { deleteQuery, listQuery, logsQuery, stopQuery, waitQuery } from "./queries.ts";
import { type CreateBody, CreateInstanceBody, StartInstanceBody } from "./schema.ts";
import { statsView } from "./stats.ts";
import { instanceView } from "./view.ts";
import { waitResponse } from "./wait.ts";

/** States in which the workload has, or will have, a terminal or standard input to attach to. */
const ATTACHABLE: ReadonlySet<InstanceState> = new Set(["Created", "Initializing", "Running"]);

export function instanceRoutes(deps: ApiDeps) {
  const { instances, live } = deps;
  return new Elysia({ normalize: false, prefix: "/instances" })
    .post("/", ({ body, request }) => createInstance(deps, request, body), { body: CreateInstanceBody, parse: requiredBody, beforeHandle: noQuery, detail: docs.create })
    .get("/", ({ request }) => Response.json(instances.list(readQuery(request, listQuery)).map(instanceView)), { detail: docs.list })
    .get("/:id", ({ params }) => Response.json(instanceView(orThrow(instances.get(params.id)))), { beforeHandle: noQuery, detail: docs.get })
    .delete("/:id", ({ params, request }) => deleteInstance(deps, request, params.id), { detail: docs.remove })
    .post("/:id/start", async ({ params, body, request }) => {
      live.keep(request);
      const override = { entrypoint: checkWords(body.entrypoint, "entrypoint") ?? undefined, cmd: checkWords(body.cmd, "cmd") ?? undefined };
      return lifecycle(deps, request, params.id, ["Running", "Initializing"], await instances.start(params.id, override));
    }, { body: StartInstanceBody, parse: optionalBody, beforeHandle: noQuery, detail: docs.start })
    .post("/:id/stop", async ({ params, request }) => {
      const { grace } = readQuery(request, stopQuery);
      live.keep(request);
      return lifecycle(deps, request, params.id, ["Stopped"], await instances.stop(params.id, grace === undefined ? {} : { graceMs: grace }));
    }, { detail: docs.stop })
    .get("/:id/wait", ({ params, request }) => {
      const { state, timeout } = readQuery(request, waitQuery);
      return waitResponse(deps, request, params.id, state, timeout);
    }, { detail: docs.wait })
    .get("/:id/logs", ({ params, request }) => {
      const { source, tail, follow } = readQuery(request, logsQuery);
      return logsResponse(deps, request, params.id, { source: source === "hypeman" ? "dormouse" : source, tail, follow });
    }, { detail: docs.logs })
    .get("/:id/stats", async ({ params }) => {
      const instance = orThrow(instances.get(params.id));
      return Response.json(statsView(instance, orThrow(await instances.stats(instance.id))));
    }, { beforeHandle: noQuery, detail: docs.stats })
    .get("/:id/exec", ({ params, request }) => openExec(deps, request, params.id), { beforeHandle: noQuery, detail: docs.exec })
    .get("/:id/attach", ({ params, request }) => openAttach(deps, request, params.id), { beforeHandle: noQuery, detail: docs.attach });
}

async function createInstance({ instances, images, volumes }: ApiDeps, request: Request, body: CreateBody): Promise<Response> {
  const wanted = toCreateInstance(body);
  const created = forgiveRepeat(request, await instances.create(wanted), () => {
    const there = instances.get(wanted.name);
    const image = images.get(wanted.image);
    if (there.isErr() || image.isErr() || there.value.name !== wanted.name) return null;
    return isSameRequest(wanted, there.value, image.value.digest, volumes) ? there.value : null;
  });
  return Response.json(instanceView(orThrow(created)), { status: 201 });
}

async function deleteInstance({ instances, live }: ApiDeps, request: Request, ref: string): Promise<Response> {
  const { graceful_shutdown } = readQuery(request, deleteQuery);
  live.keep(request);
  const removed = await instances.remove(ref, { graceful: graceful_shutdown });
  const gone = removed.isErr() && removed.error.code === "instance.not_found" && isRepeat(request);
  if (!gone) orThrow(removed);
  return new Response(null, { status: 204 });
}

async function openExec(deps: ApiDeps, request: Request, ref: string): Promise<Response> {
  const { instances, live } = deps;
  const { id } = await awake(deps, request, ref, "run a command in");
  live.requireUpgrade(request);
  const protocol = chooseProtocol(request, [EXEC_V1]);
  return live.upgrade(request, new ExecSocket({ open: (listener, start, gone) => instances.exec(id, start, listener, gone), v1: protocol === EXEC_V1, firstFrame: true, closing: live.closing }), protocol);
}

function openAttach({ instances, live }: ApiDeps, request: Request, ref: string): Response {
  const { id, name, state } = orThrow(instances.get(ref));
  if (!ATTACHABLE.has(state)) throw new DormouseError("instance.invalid_state", `Cannot attach to instance ${name}: it is ${state}.`, { details: { state } });
  live.requireUpgrade(request);
  const protocol = chooseProtocol(request, [EXEC_V1]);
  return live.upgrade(request, new ExecSocket({ open: (listener, _start, gone) => instances.attach(id, listener, gone), v1: protocol === EXEC_V1, firstFrame: false, closing: live.closing }), protocol);
}
