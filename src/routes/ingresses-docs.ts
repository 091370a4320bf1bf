// The ingress routes in words, for the OpenAPI document.
import { DELETED, describeGroup, pathParam } from "./describe.ts";
import { createIngressExample, ingressExample } from "./ingresses-schema.ts";
import { describeQuery, tagsQuery } from "./query.ts";

const ofAny = describeGroup("Ingresses", [], []);
const ofIngress = describeGroup("Ingresses", [pathParam("id", "Exact id, exact name, or a prefix that only one id has.", "sites")], ["ingress.not_found", "name.ambiguous"]);

export const create = ofAny({
  operationId: "createIngress",
  summary: "Create an ingress",
  description: "From then on its ports listen, and HTTP/1.1 and WebSocket requests for its host names go to instances; one that sleeps is woken first where its policy lets requests do that, else the answer is 503. In `{instance}.example.com` the capture stands for one label, and `{instance}` as the target for the instance of that name. `tls` and `redirect_http` are refused until TLS is there.",
  bodyExample: createIngressExample,
  answers: { 201: { description: "Its ports listen.", schema: "Ingress", example: ingressExample } },
  errors: ["name.invalid", "request.not_supported", "ingress.target_not_found", "ingress.already_exists", "hostname.taken", "port.taken", "name.ambiguous", "host.network"],
});

export const list = ofAny({
  operationId: "listIngresses",
  summary: "List ingresses",
  description: "Oldest first.",
  parameters: describeQuery(tagsQuery),
  answers: { 200: { description: "The ingresses.", schema: "Ingress", list: true, example: [ingressExample] } },
});

export const get = ofIngress({
  operationId: "getIngress",
  summary: "Get an ingress",
  description: "With the values of `request_header_auth`: hide them where others look on.",
  answers: { 200: { description: "The ingress.", schema: "Ingress", example: ingressExample } },
});

export const remove = ofIngress({
  operationId: "deleteIngress",
  summary: "Delete an ingress",
  description: "Requests under way go on; ports that no other rule needs are closed.",
  answers: DELETED,
});
