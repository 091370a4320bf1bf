// `/instances/{id}/…`: standby, restore, fork, update, and automatic standby. Logic is the domain's.
import { Elysia } from "elysia";
import type { ApiDeps } from "../deps.ts";
import { optionalBody, requiredBody } from "../body.ts";
import { orThrow } from "../errors.ts";
import { checkName, parseSpan } from "../format.ts";
import { toAutoStandby, toCompression, toSnapshotPolicy } from "../policies.ts";
import { noQuery } from "../query.ts";
import { forked, lifecycle } from "./outcome.ts";
import * as docs from "./sleep-docs.ts";
import { ForkBody, StandbyBody, statusView, type UpdateBody, UpdateInstanceBody } from "./sleep-schema.ts";
import { refuseUnsupported, UNSUPPORTED_UPDATE } from "./unsupported.ts";
import { instanceView } from "./view.ts";

export function sleepRoutes(deps: ApiDeps) {
  const { instances, live } = deps;
  return new Elysia({ normalize: false, prefix: "/instances" })
    .post("/:id/standby", async ({ params, body, request }) => {
      const { compression, compression_delay = "", force = false } = body;
      const options = {
        ...(compression == null ? {} : { compression: toCompression(compression) }),
        ...(compression_delay === "" ? {} : { compressionDelayMs: orThrow(parseSpan(compression_delay, "compression_delay", 0)) }),
        ...(force ? { force } : {}),
      };
      live.keep(request);
      return lifecycle(deps, request, params.id, ["Standby"], await instances.standby(params.id, options));
    }, { body: StandbyBody, parse: optionalBody, beforeHandle: noQuery, detail: docs.standby })
    .post("/:id/restore", async ({ params, request }) => {
      live.keep(request);
      return lifecycle(deps, request, params.id, ["Running"], await instances.restore(params.id));
    }, { beforeHandle: noQuery, detail: docs.restore })
    .post("/:id/fork", async ({ params, body, request }) => {
      const name = orThrow(checkName(body.name));
      const targetState = body.target_state ?? null;
      live.keep(request);
      const result = await instances.fork(params.id, { name, fromRunning: body.from_running ?? false, targetState });
      return forked(deps, request, result, () =>
        instances.get(params.id).map(({ id, createdAt }) => ({ name, source: id, since: createdAt, targetState })).unwrapOr(null));
    }, { body: ForkBody, parse: requiredBody, beforeHandle: noQuery, detail: docs.fork })
    .patch("/:id", async ({ params, body, request }) => {
      const change = toChange(body);
      live.keep(request); // one that sleeps may be under way to something else
      return Response.json(instanceView(orThrow(await instances.update(params.id, change))));
    }, { body: UpdateInstanceBody, parse: optionalBody, beforeHandle: noQuery, detail: docs.update })
    .get("/:id/auto-standby/status", async ({ params }) => Response.json(statusView(orThrow(await instances.autoStandbyStatus(params.id)))),
      { beforeHandle: noQuery, detail: docs.status })
    .post("/:id/auto-standby/hold", async ({ params, request }) => {
      live.keep(request); // a standby that is called off has its end first
      return Response.json(statusView(orThrow(await instances.holdAutoStandby(params.id))));
    }, { beforeHandle: noQuery, detail: docs.hold });
}

/** Each policy that is there replaces the one before as a whole; null removes it; what is absent stays. */
function toChange(body: UpdateBody) {
  refuseUnsupported(body, UNSUPPORTED_UPDATE);
  return {
    ...(body.auto_standby === undefined ? {} : { autoStandby: toAutoStandby(body.auto_standby) }),
    ...(body.snapshot_policy === undefined ? {} : { snapshotPolicy: toSnapshotPolicy(body.snapshot_policy) }),
  };
}
