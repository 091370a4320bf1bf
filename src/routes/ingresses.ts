// `/ingresses`: create, list, get and delete. Logic is the ingress domain's; here is only the wire.
import { Elysia } from "elysia";
import { requiredBody } from "./body.ts";
import type { ApiDeps } from "./deps.ts";
import { describe, pathParam } from "./describe.ts";
import { orThrow } from "./errors.ts";
import { CreateIngressBody, createIngressExample, ingressExample, ingressView, toCreateIngress } from "./ingresses-schema.ts";
import { describeQuery, noQuery, readQuery, tagsParam } from "./query.ts";
import { forgiveRepeat, isRepeat } from "./repeat.ts";

const listQuery = { tags: tagsParam };
const tag = "Ingresses";
const parameters = [pathParam("id", "Exact id, exact name, or a prefix that only one id has.", "sites")];

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
      detail: describe({
        tag,
        operationId: "createIngress",
        summary: "Create an ingress",
        description: "From then on its ports listen, and HTTP/1.1 and WebSocket requests for its host names go to instances; one that sleeps is woken first where its policy lets requests do that, else the answer is 503. In `{instance}.example.com` the capture stands for one label, and `{instance}` as the target for the instance of that name. `tls` and `redirect_http` are refused until TLS is there.",
        bodyExample: createIngressExample,
        answers: { 201: { description: "Its ports listen.", schema: "Ingress", example: ingressExample } },
        errors: ["name.invalid", "request.not_supported", "ingress.target_not_found", "ingress.already_exists", "hostname.taken", "port.taken", "name.ambiguous", "host.network"],
      }),
    })
    .get("/", ({ request }) => Response.json(ingresses.list(readQuery(request, listQuery)).map(ingressView)), {
      detail: describe({
        tag,
        operationId: "listIngresses",
        summary: "List ingresses",
        description: "Oldest first.",
        parameters: describeQuery(listQuery),
        answers: { 200: { description: "The ingresses.", schema: "Ingress", list: true, example: [ingressExample] } },
      }),
    })
    .get("/:id", ({ params }) => Response.json(ingressView(orThrow(ingresses.get(params.id)))), {
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "getIngress",
        summary: "Get an ingress",
        description: "With the values of `request_header_auth`: hide them where others look on.",
        parameters,
        answers: { 200: { description: "The ingress.", schema: "Ingress", example: ingressExample } },
        errors: ["ingress.not_found", "name.ambiguous"],
      }),
    })
    .delete("/:id", ({ params, request }) => {
      const removed = ingresses.remove(params.id);
      const gone = removed.isErr() && removed.error.code === "ingress.not_found" && isRepeat(request);
      if (!gone) orThrow(removed);
      return new Response(null, { status: 204 });
    }, {
      beforeHandle: noQuery,
      detail: describe({
        tag,
        operationId: "deleteIngress",
        summary: "Delete an ingress",
        description: "Requests under way go on; ports that no other rule needs are closed.",
        parameters,
        answers: { 204: { description: "Deleted." } },
        errors: ["ingress.not_found", "name.ambiguous"],
      }),
    });
