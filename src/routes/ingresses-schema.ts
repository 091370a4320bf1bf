// Bodies of the ingress routes, and how an ingress of the domain looks on the wire.
import { type Static, Type } from "@sinclair/typebox";
import { type CreateIngress, DEFAULT_PORT, type Ingress } from "../host/ingress/service.ts";
import { orThrow } from "./errors.ts";
import { checkName, formatTime } from "./format.ts";
import { Tags } from "./schema.ts";

const Port = (description: string) => Type.Integer({ minimum: 1, maximum: 65_535, description });
const closed = { additionalProperties: false };

const match = { hostname: Type.String({ minLength: 1, description: "`api.example.com`, or with captures, each a whole label: `{instance}.example.com`." }) };
const Target = Type.Object(
  { instance: Type.String({ minLength: 1, description: "Name or id, or a capture of the host name: `{instance}`. Only a capture may name an instance that is not there yet." }), port: Port("Port of the instance.") },
  closed,
);
const Auth = Type.Object(
  { header: Type.String({ description: "Field that requests must have; it ends here. Reserved ones are refused." }), value: Type.String({ description: "32 to 256 visible ASCII characters. A secret, kept and shown like an instance's environment." }) },
  { ...closed, description: "Other requests are answered 403." },
);

export const CreateIngressBody = Type.Object(
  {
    name: Type.String({ description: "A DNS label, unique among ingresses." }),
    rules: Type.Array(
      Type.Object(
        {
          match: Type.Object({ ...match, port: Type.Optional(Port(`Port of the host; ${DEFAULT_PORT} by default.`)) }, closed),
          target: Target,
          request_header_auth: Type.Optional(Auth),
          tls: Type.Optional(Type.Boolean({ default: false, description: "Only false yet." })),
          redirect_http: Type.Optional(Type.Boolean({ default: false, description: "Only false yet." })),
        },
        closed,
      ),
      { description: "Literal host names come before patterns, whatever their order." },
    ),
    tags: Type.Optional(Tags),
  },
  { ...closed, title: "CreateIngress" },
);
type CreateIngressBody = Static<typeof CreateIngressBody>;

export const IngressSchema = Type.Object(
  {
    id: Type.String({ description: "CUID2." }),
    name: Type.String(),
    created_at: Type.String({ format: "date-time" }),
    rules: Type.Array(Type.Object({ match: Type.Object({ ...match, port: Port("Port of the host.") }), target: Target, request_header_auth: Type.Optional(Auth), tls: Type.Boolean(), redirect_http: Type.Boolean() })),
    tags: Tags,
  },
  { title: "Ingress" },
);

export function toCreateIngress(body: CreateIngressBody): CreateIngress {
  orThrow(checkName(body.name));
  return {
    name: body.name,
    tags: body.tags ?? {},
    rules: body.rules.map(({ match: { hostname, port = DEFAULT_PORT }, target, request_header_auth, tls = false, redirect_http = false }) =>
      ({ hostname, port, instance: target.instance, targetPort: target.port, tls, redirectHttp: redirect_http, auth: request_header_auth ?? null })),
  };
}

export const ingressView = ({ id, name, createdAt, rules, tags }: Ingress) => ({
  id,
  name,
  created_at: formatTime(createdAt),
  rules: rules.map(({ hostname, port, instance, targetPort, tls, redirectHttp, auth }) => ({
    match: { hostname, port },
    target: { instance, port: targetPort },
    ...(auth === null ? {} : { request_header_auth: auth }),
    tls,
    redirect_http: redirectHttp,
  })),
  tags,
});

export const createIngressExample = {
  name: "sites",
  rules: [{ match: { hostname: "{instance}.example.com" }, target: { instance: "{instance}", port: 80 } }],
  tags: { team: "web" },
};
export const ingressExample = {
  id: "tz4a98xxat96iws9zmbrgj3a",
  name: "sites",
  created_at: "2026-01-02T03:04:05.000Z",
  rules: [{ match: { hostname: "{instance}.example.com", port: 80 }, target: { instance: "{instance}", port: 80 }, tls: false, redirect_http: false }],
  tags: { team: "web" },
};
