// `/volumes`: create, also from archives, list, get and delete. Logic is the volume domain's; here is only the wire.
import { Elysia } from "elysia";
import { archiveBody, requiredBody } from "./body.ts";
import type { ApiDeps } from "./deps.ts";
import { orThrow } from "./errors.ts";
import { noQuery, readQuery, tagsQuery } from "./query.ts";
import { forgiveRepeat, isRepeat } from "./repeat.ts";
import * as docs from "./volumes-docs.ts";
import { archiveQuery, CreateVolumeBody, toCreateVolume, volumeView } from "./volumes-schema.ts";

export const volumeRoutes = ({ volumes, live }: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/volumes" })
    .post("/", async ({ body, request }) => {
      const wanted = toCreateVolume(body);
      live.keep(request);
      const created = forgiveRepeat(request, await volumes.create(wanted), () => volumes.made(wanted));
      return Response.json(volumeView(orThrow(created)), { status: 201 });
    }, {
      body: CreateVolumeBody,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: docs.create,
    })
    .post("/from-archive", async ({ request }) => {
      const wanted = toCreateVolume(readQuery(request, archiveQuery)), body = archiveBody(request);
      live.keep(request);
      return Response.json(volumeView(orThrow(await volumes.createFromArchive(wanted, body))), { status: 201 });
    }, {
      parse: "none",
      detail: docs.createFromArchive,
    })
    .get("/", ({ request }) => Response.json(volumes.list(readQuery(request, tagsQuery).tags).map(volumeView)), {
      detail: docs.list,
    })
    .get("/:id", ({ params }) => Response.json(volumeView(orThrow(volumes.get(params.id)))), {
      beforeHandle: noQuery,
      detail: docs.get,
    })
    .delete("/:id", ({ params, request }) => {
      const removed = volumes.remove(params.id);
      const gone = removed.isErr() && removed.error.code === "volume.not_found" && isRepeat(request);
      if (!gone) orThrow(removed);
      return new Response(null, { status: 204 });
    }, {
      beforeHandle: noQuery,
      detail: docs.remove,
    });
