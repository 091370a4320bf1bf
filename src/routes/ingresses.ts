// `/ingresses`: create, list, get and delete. Logic is the ingress domain's; here is only the wire.
import { Elysia } from "elysia";
import { requiredBody } from "./body.ts";
import type { ApiDeps } from "./deps.ts";
import { orThrow } from "./errors.ts";
import * as docs from "./ingresses-docs.ts";
import { CreateIngressBody, ingressView, toCreateIngress } from "./ingresses-schema.ts";
import { noQuery, readQuery, tagsQuery } from "./query.ts";
import { forgiveRepeat, isRepeat } from "./repeat.ts";

export const ingressRoutes = ({ ingresses }: ApiDeps) =>
  new Elysia({ normalize: false, prefix: "/ingresses" })
    .post("/", ({ body, request }) => {
      const wanted = toCreateIngress(body);
      const created = forgiveRepeat(request, ingresses.create(wanted), () => ingresses.made(wanted));
      return Response.json(ingressView(orThrow(created)), { status: 201 });
    }, {
      body: CreateIngressBody,
      parse: requiredBody,
      beforeHandle: noQuery,
      detail: docs.create,
    })
    .get("/", ({ request }) => Response.json(ingresses.list(readQuery(request, tagsQuery)).map(ingressView)), {
      detail: docs.list,
    })
    .get("/:id", ({ params }) => Response.json(ingressView(orThrow(ingresses.get(params.id)))), {
      beforeHandle: noQuery,
      detail: docs.get,
    })
    .delete("/:id", ({ params, request }) => {
      const removed = ingresses.remove(params.id);
      const gone = removed.isErr() && removed.error.code === "ingress.not_found" && isRepeat(request);
      if (!gone) orThrow(removed);
      return new Response(null, { status: 204 });
    }, {
      beforeHandle: noQuery,
      detail: docs.remove,
    });
