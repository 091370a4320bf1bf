// `/instances/{id}/volumes/{volumeId}`: attach and detach. Logic is the domain's.
import { Elysia } from "elysia";
import { requiredBody } from "../body.ts";
import type { ApiDeps } from "../deps.ts";
import { orThrow } from "../errors.ts";
import { noQuery } from "../query.ts";
import { forgiveRepeat } from "../repeat.ts";
import { instanceView } from "./view.ts";
import * as docs from "./volumes-docs.ts";
import { AttachBody, byId, toVolumeMount } from "./volumes-schema.ts";

export function instanceVolumeRoutes({ instances, volumes, live }: ApiDeps) {
  return new Elysia({ normalize: false, prefix: "/instances" })
    .post("/:id/volumes/:volumeId", async ({ params, body, request }) => {
      const mount = toVolumeMount(params.volumeId, body);
      live.keep(request); // a stop before it may take its time
      const attached = forgiveRepeat(request, await instances.attachVolume(params.id, mount), () => {
        const there = instances.get(params.id).unwrapOr(null), [wanted] = byId([mount], volumes);
        return there?.volumes.some((one) => Bun.deepEquals(one, wanted)) === true ? there : null;
      });
      return Response.json(instanceView(orThrow(attached)));
    }, { body: AttachBody, parse: requiredBody, beforeHandle: noQuery, detail: docs.attach })
    .delete("/:id/volumes/:volumeId", async ({ params, request }) => {
      live.keep(request);
      const detached = forgiveRepeat(request, await instances.detachVolume(params.id, params.volumeId), () => {
        const there = instances.get(params.id).unwrapOr(null), volume = volumes.get(params.volumeId).unwrapOr(null);
        return volume !== null && there?.volumes.every(({ volumeId }) => volumeId !== volume.id) === true ? there : null;
      });
      return Response.json(instanceView(orThrow(detached)));
    }, { beforeHandle: noQuery, detail: docs.detach });
}
