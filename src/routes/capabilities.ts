// `GET /capabilities`: what this server and its host can do, truthfully; what answers 501 is not in the lists.
import { type Static, Type } from "@sinclair/typebox";
import { Elysia } from "elysia";
import type { ApiDeps } from "./deps.ts";
import { describe } from "./describe.ts";

/** Version of the HTTP contract; the OpenAPI document carries the same. */
export const API_VERSION = "0.28.0";
export const RUNTIME = "dormouse";
export const PLATFORM = "linux/amd64";
/** What the contract has names for, of what the runtime can do. */
const RUNTIME_FEATURES = ["fork", "snapshots", "standby", "vsock"];

export const Capabilities = Type.Object(
  {
    server: Type.Object({ version: Type.String(), api_version: Type.String() }),
    host: Type.Object({ os: Type.String(), arch: Type.String() }),
    default_runtime: Type.Object({ name: Type.String(), available: Type.Boolean({ description: "Whether `/dev/kvm` can run guests here." }) }),
    runtimes: Type.Array(Type.Object({ name: Type.String(), available: Type.Boolean(), features: Type.Array(Type.String()) })),
    network: Type.Object({
      model: Type.Union([Type.Literal("bridge"), Type.Literal("nat")]),
      guest_to_guest: Type.Boolean(),
      gateway: Type.Optional(Type.String()),
      subnet: Type.Optional(Type.String()),
    }),
    images: Type.Object({ default_platform: Type.String(), platforms: Type.Array(Type.String()) }),
    features: Type.Array(Type.String()),
  },
  { title: "Capabilities" },
);
type Capabilities = Static<typeof Capabilities>;

const example: Capabilities = {
  server: { version: "0.1.0", api_version: API_VERSION },
  host: { os: "linux", arch: "amd64" },
  default_runtime: { name: RUNTIME, available: true },
  runtimes: [{ name: RUNTIME, available: true, features: RUNTIME_FEATURES }],
  network: { model: "nat", guest_to_guest: false, gateway: "172.30.0.1", subnet: "172.30.0.0/16" },
  images: { default_platform: PLATFORM, platforms: [PLATFORM] },
  features: ["exec", "images", "ingress", "instances", "logs", "volumes"],
};

export const capabilitiesRoutes = ({ host, network }: ApiDeps) => {
  const capabilities = (): Capabilities => ({
    server: { version: host.version, api_version: API_VERSION },
    host: example.host,
    default_runtime: { name: RUNTIME, available: host.runtimeAvailable },
    runtimes: [{ name: RUNTIME, available: host.runtimeAvailable, features: RUNTIME_FEATURES }],
    network: { model: "nat", guest_to_guest: false, gateway: network.gateway, subnet: network.subnet },
    images: example.images,
    features: example.features,
  });
  return new Elysia({ normalize: false }).get("/capabilities", () => Response.json(capabilities()), {
    detail: describe({
      tag: "Server",
      operationId: "getCapabilities",
      summary: "What server and host can do",
      description: "Versions, host, runtimes with their features, guest network and image platforms. Only what works here is listed.",
      answers: { 200: { description: "The capabilities.", schema: "Capabilities", example } },
    }),
  });
};
