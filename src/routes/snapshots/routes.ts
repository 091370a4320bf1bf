// `/snapshots`, and what instances do with them: `/instances/{id}/snapshots`, `/instances/{id}/snapshot-schedule`.
// Logic is the domain's.
import { Elysia } from "elysia";
import type { SetSchedule, Snapshot, SnapshotFilter, TargetState } from "../../host/snapshots/service.ts";
import { optionalBody, requiredBody } from "../body.ts";
import type { ApiDeps } from "../deps.ts";
import { bad, orThrow } from "../errors.ts";
import { checkName, parseSpan } from "../format.ts";
import { checkRuntime } from "../instances/create.ts";
import { forked } from "../instances/outcome.ts";
import { instanceView } from "../instances/view.ts";
import { toCompression } from "../policies.ts";
import { noQuery, readQuery } from "../query.ts";
import { forgiveRepeat, isRepeat } from "../repeat.ts";
import * as docs from "./docs.ts";
import { listQuery } from "./queries.ts";
import { CreateSnapshotBody, ForkSnapshotBody, RestoreSnapshotBody, SetScheduleBody, scheduleView, snapshotView } from "./schema.ts";

const MIN_INTERVAL_MS = 60_000;

export const snapshotRoutes = (deps: ApiDeps) => new Elysia({ normalize: false }).use(namedRoutes(deps)).use(ofInstanceRoutes(deps)).use(scheduleRoutes(deps));

const namedRoutes = (deps: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/snapshots" })
    .get("/", ({ request }) => Response.json(deps.instances.listSnapshots(toFilter(deps, request)).map(snapshotView)), { detail: docs.list })
    .get("/:snapshotId", ({ params }) => Response.json(snapshotView(orThrow(deps.instances.getSnapshot(params.snapshotId)))), { beforeHandle: noQuery, detail: docs.get })
    .delete("/:snapshotId", async ({ params, request }) => {
      deps.live.keep(request);
      return gone(request, await deps.instances.removeSnapshot(params.snapshotId));
    }, { beforeHandle: noQuery, detail: docs.remove })
    .post("/:snapshotId/fork", async ({ params, body, request }) => {
      const { instances, live } = deps;
      const name = orThrow(checkName(body.name));
      checkRuntime(body.target_hypervisor, "target_hypervisor");
      const targetState = body.target_state ?? null;
      live.keep(request);
      const result = await instances.forkSnapshot(params.snapshotId, { name, targetState });
      return forked(deps, request, result, () =>
        instances.getSnapshot(params.snapshotId).map(({ sourceInstanceId, createdAt, kind }) => ({
          name, source: sourceInstanceId, since: createdAt, targetState: targetState ?? defaultTarget(kind),
        })).unwrapOr(null));
    }, { body: ForkSnapshotBody, parse: requiredBody, beforeHandle: noQuery, detail: docs.fork });

const defaultTarget = (kind: Snapshot["kind"]): TargetState => (kind === "Standby" ? "Running" : "Stopped");

const ofInstanceRoutes = (deps: ApiDeps) => {
  const { instances, live } = deps;
  return new Elysia({ normalize: false, prefix: "/instances" })
    .post("/:id/snapshots", async ({ params, body, request }) => createSnapshot(deps, request, params.id, body), { body: CreateSnapshotBody, parse: requiredBody, beforeHandle: noQuery, detail: docs.create })
    .post("/:id/snapshots/:snapshotId/restore", async ({ params, body, request }) => {
      checkRuntime(body.target_hypervisor, "target_hypervisor");
      live.keep(request);
      const snapshot = ownSnapshot(deps, params.id, params.snapshotId);
      return Response.json(instanceView(orThrow(await instances.restoreSnapshot(params.id, snapshot, body.target_state ?? null))));
    }, { body: RestoreSnapshotBody, parse: optionalBody, beforeHandle: noQuery, detail: docs.restore });
};

/** A name is unique among the snapshots of one source: here it means this one's, whatever others have. */
function ownSnapshot({ instances }: ApiDeps, ref: string, snapshotRef: string): string {
  const source = instances.get(ref).unwrapOr(null);
  const [own] = source === null ? [] : instances.listSnapshots({ sourceInstanceId: source.id, name: snapshotRef });
  return own?.id ?? snapshotRef;
}

const scheduleRoutes = ({ instances }: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/instances" })
    .put("/:id/snapshot-schedule", async ({ params, body }) => Response.json(scheduleView(orThrow(await instances.setSchedule(params.id, toSchedule(body))))), { body: SetScheduleBody, parse: requiredBody, beforeHandle: noQuery, detail: docs.setSchedule })
    .get("/:id/snapshot-schedule", ({ params }) => Response.json(scheduleView(orThrow(instances.getSchedule(params.id)))), { beforeHandle: noQuery, detail: docs.getSchedule })
    .delete("/:id/snapshot-schedule", async ({ params, request }) => gone(request, await instances.removeSchedule(params.id)), { beforeHandle: noQuery, detail: docs.removeSchedule });

async function createSnapshot({ instances, live }: ApiDeps, request: Request, ref: string, body: typeof CreateSnapshotBody.static): Promise<Response> {
  const { kind, tags = {}, compression } = body;
  const name = body.name == null || body.name === "" ? null : orThrow(checkName(body.name));
  live.keep(request);
  const result = await instances.createSnapshot(ref, { kind, name, tags, ...(compression == null ? {} : { compression: toCompression(compression) }) });
  const created = forgiveRepeat(request, result, () => {
    const source = instances.get(ref).unwrapOr(null);
    if (name === null || source === null) return null;
    return instances.listSnapshots({ name, kind, sourceInstanceId: source.id }).find((one) => Bun.deepEquals(one.tags, tags)) ?? null;
  });
  return Response.json(snapshotView(orThrow(created)), { status: 201 });
}

/** 204; a repeat finds gone what it wants gone. */
function gone(request: Request, removed: Awaited<ReturnType<ApiDeps["instances"]["removeSnapshot"]>>): Response {
  const forgiven = removed.isErr() && removed.error.code === "snapshot.not_found" && isRepeat(request);
  if (!forgiven) orThrow(removed);
  return new Response(null, { status: 204 });
}

/** Snapshots outlive their source: what is no instance any more is taken for the id of one that was. */
function toFilter({ instances }: ApiDeps, request: Request): SnapshotFilter {
  const { kind, name, source_instance_id: source, tags } = readQuery(request, listQuery);
  const found = source === undefined ? null : instances.get(source);
  if (found?.isErr() && found.error.code !== "instance.not_found") throw found.error;
  return {
    tags,
    ...(kind === undefined ? {} : { kind }),
    ...(name === undefined ? {} : { name }),
    ...(source === undefined ? {} : { sourceInstanceId: found?.map(({ id }) => id).unwrapOr(source) ?? source }),
  };
}

function toSchedule({ interval, retention, name_prefix, metadata = {} }: SetScheduleBody): SetSchedule {
  const { max_count = 0, max_age = "" } = retention;
  const maxAgeMs = max_age === "" ? 0 : orThrow(parseSpan(max_age, "retention.max_age", 0));
  if (max_count === 0 && maxAgeMs === 0) throw bad("Cannot accept field retention: it needs max_count or max_age, or snapshots would pile up.", "retention");
  return {
    intervalMs: orThrow(parseSpan(interval, "interval", MIN_INTERVAL_MS)),
    maxCount: max_count || null,
    maxAgeMs: maxAgeMs || null,
    namePrefix: name_prefix || null,
    metadata,
  };
}
