// Bodies of the instance routes and the instance as the wire shows it, with examples.
import { type Static, Type } from "@sinclair/typebox";
import { INSTANCE_STATES } from "../../host/instances/service.ts";
import { AutoStandbySchema, SnapshotPolicySchema } from "../policies.ts";
import { nullable, Reference, Tags, Time } from "../schema.ts";
import { AttachedVolume, VolumeMountSchema } from "./volumes-schema.ts";
import { UNSUPPORTED_CREATE, UNSUPPORTED_NETWORK, unsupportedSchemas } from "./unsupported.ts";

const Size = (description: string) => Type.String({ description: `${description} Binary: 1GB is 2^30 bytes.`, examples: ["512MB", "1GB"] });
const Words = (description: string) => Type.Array(Type.String(), { description });
const Env = Type.Record(Type.String(), Type.String(), { description: "Environment variables; they come over the image's." });
const Port = (description: string) => Type.Integer({ minimum: 1, maximum: 65_535, description });

const PortMapping = Type.Object(
  {
    guest_port: Port("Port in the guest."),
    host_port: Port("Port on the host."),
    protocol: Type.Optional(Type.Union([Type.Literal("tcp"), Type.Literal("udp")], { default: "tcp" })),
  },
  { additionalProperties: false },
);

const ownNetwork = { enabled: Type.Optional(Type.Boolean({ default: true, description: "Whether the instance has a network." })) };
const own = {
  name: Type.String({ description: "Small letters, digits and dashes, at most 63; neither begins nor ends with a dash.", examples: ["web"] }),
  image: Reference("Of an image that is `ready`.", "docker.io/library/nginx:latest"),
  size: Type.Optional(Size("Memory; 1GB by default.")),
  vcpus: Type.Optional(Type.Integer({ minimum: 1, default: 2, description: "Virtual CPUs." })),
  overlay_size: Type.Optional(Size("Writable disk, sparse; 10GB by default.")),
  env: Type.Optional(Env),
  tags: Type.Optional(Tags),
  entrypoint: Type.Optional(Words("Instead of the image's entrypoint; its command is dropped then, as Docker does.")),
  cmd: Type.Optional(Words("Instead of the image's command.")),
  hypervisor: Type.Optional(Type.String({ description: "`dormouse` is the only one there is." })),
  platform: Type.Optional(Type.String({ description: "`os/arch[/variant]`; this host runs `linux/amd64`." })),
  auto_standby: Type.Optional(nullable(AutoStandbySchema)),
  snapshot_policy: Type.Optional(nullable(SnapshotPolicySchema)),
  volumes: Type.Optional(nullable(Type.Array(VolumeMountSchema, { description: "Mounted in this order before the program starts, and the instance's until it is deleted or they are detached." }))),
  skip_kernel_headers: Type.Optional(Type.Boolean({ description: "Kernel headers are never installed: the guest's kernel loads no modules. Both values mean the same." })),
  port_mappings: Type.Optional(Type.Array(PortMapping, { maxItems: 1000, description: "Ports of the host that lead to the guest. An extension." })),
  tty: Type.Optional(Type.Boolean({ default: false, description: "The program gets a terminal. An extension." })),
  open_stdin: Type.Optional(Type.Boolean({ default: false, description: "The program's standard input stays open for `attach`. An extension." })),
};

const OwnCreate = Type.Object({ ...own, network: Type.Optional(Type.Object(ownNetwork)) });
/** What routes read of the body: the fields that are implemented. */
export type CreateBody = Static<typeof OwnCreate>;

export const CreateInstanceBody = Type.Object(
  {
    ...own,
    network: Type.Optional(Type.Object({ ...ownNetwork, ...unsupportedSchemas(UNSUPPORTED_NETWORK) }, { additionalProperties: false })),
    ...unsupportedSchemas(UNSUPPORTED_CREATE),
  },
  { additionalProperties: false, title: "CreateInstance" },
) as unknown as typeof OwnCreate;

export const StartInstanceBody = Type.Object(
  {
    entrypoint: Type.Optional(Words("Instead of the image's entrypoint, from this run on.")),
    cmd: Type.Optional(Words("Instead of the image's command, from this run on.")),
  },
  { additionalProperties: false, title: "StartInstance" },
);

const State = Type.Union(INSTANCE_STATES.map((state) => Type.Literal(state)), { description: "`Created`, `Initializing`: on its way up. `Running`: its program was started. `Standby`: asleep, saved on disk, to go on with `restore`. `Stopped`: ended; its disk is kept. `Paused`, `Shutdown`: on the way to another. Observed, never guessed; `Unknown` comes with `state_error`." });

export const InstanceSchema = Type.Object(
  {
    id: Type.String({ description: "CUID2." }),
    name: Type.String(),
    image: Type.String(),
    state: State,
    created_at: Time("When it was created."),
    expires_at: Type.Union([Type.String({ format: "date-time" }), Type.Null()]),
    started_at: nullable(Time("When its program was last started; a wake is no start.")),
    stopped_at: nullable(Time("When it last stopped.")),
    state_error: nullable(Type.String({ description: "Why it is `Unknown`, or why the last restore failed." })),
    exit_code: nullable(Type.Integer({ description: "Of the program; 128+n for signal n." })),
    exit_message: Type.Optional(Type.String({ description: "How it ended, for people." })),
    size: Type.String(),
    vcpus: Type.Integer(),
    overlay_size: Type.String(),
    env: Env,
    tags: Tags,
    hypervisor: Type.String(),
    platform: Type.String(),
    has_snapshot: Type.Boolean({ description: "Whether it sleeps on saved memory. Named snapshots don't count." }),
    network: Type.Object({ enabled: Type.Boolean(), name: Type.Optional(Type.String()), ip: nullable(Type.String()), mac: nullable(Type.String()) }),
    volumes: Type.Array(AttachedVolume, { description: "In the order in which they are mounted." }),
    auto_standby: Type.Optional(AutoStandbySchema),
    snapshot_policy: Type.Optional(SnapshotPolicySchema),
    current_phase: Type.String({ description: "The state in small letters." }),
    current_phase_since: Time("When that phase began."),
    phase_durations_ms: Type.Record(Type.String(), Type.Number(), { description: "Milliseconds in each phase, the current one until now." }),
    entrypoint: Type.Union([Type.Array(Type.String()), Type.Null()], { description: "As given; null keeps the image's. An extension." }),
    cmd: Type.Union([Type.Array(Type.String()), Type.Null()], { description: "As given; null keeps the image's. An extension." }),
    port_mappings: Type.Array(PortMapping, { description: "An extension." }),
    tty: Type.Boolean({ description: "An extension." }),
    open_stdin: Type.Boolean({ description: "An extension." }),
    image_digest: Type.String({ description: "Manifest digest of the image it runs. An extension." }),
  },
  { title: "Instance" },
);

export const WaitAnswer = Type.Object(
  { state: State, timed_out: Type.Boolean(), state_error: Type.Optional(nullable(Type.String())) },
  { title: "WaitAnswer" },
);

export const instanceExample = {
  id: "tz4a98xxat96iws9zmbrgj3a",
  name: "web",
  image: "docker.io/library/nginx:latest",
  image_digest: `sha256:${"4c".repeat(32)}`,
  state: "Running",
  created_at: "2026-01-02T03:04:05.000Z",
  expires_at: null,
  started_at: "2026-01-02T03:04:06.000Z",
  stopped_at: null,
  state_error: null,
  exit_code: null,
  size: "512MB",
  vcpus: 2,
  overlay_size: "10GB",
  env: { NGINX_PORT: "80" },
  tags: { team: "web" },
  entrypoint: null,
  cmd: null,
  hypervisor: "dormouse",
  platform: "linux/amd64",
  has_snapshot: false,
  network: { enabled: true, name: "default", ip: "172.30.0.2", mac: "02:00:ac:1e:00:02" },
  volumes: [],
  auto_standby: { enabled: true, idle_timeout: "5m", ignore_destination_ports: [], ignore_source_cidrs: [], wake_on_packet: true },
  port_mappings: [{ guest_port: 80, host_port: 8080, protocol: "tcp" }],
  tty: false,
  open_stdin: false,
  current_phase: "running",
  current_phase_since: "2026-01-02T03:04:06.000Z",
  phase_durations_ms: { created: 210, initializing: 790, running: 60_000 },
};

export const createExample = {
  name: "web",
  image: "docker.io/library/nginx:latest",
  size: "512MB",
  env: { NGINX_PORT: "80" },
  tags: { team: "web" },
  port_mappings: [{ guest_port: 80, host_port: 8080 }],
  auto_standby: { enabled: true, idle_timeout: "5m" },
};

/** Of a fork, from an instance or a snapshot. */
export const forkAnswer = { 201: { description: "The fork, in its target state.", schema: "Instance", example: { ...instanceExample, id: "h3k2v0q8rjw5ux7m4c1n9d6b", name: "web-2", port_mappings: [] } } };
