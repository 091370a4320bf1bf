// Bodies of the routes that put instances to sleep, wake and fork them, and the status of automatic standby on the wire.
import { type Static, Type } from "@sinclair/typebox";
import { AUTO_STANDBY_REASONS, AUTO_STANDBY_STATUSES, type AutoStandbyStatus } from "../../host/snapshots/service.ts";
import { formatDurationOrNull, formatTimeOrNull } from "../format.ts";
import { AutoStandbySchema, CompressionSchema, SnapshotPolicySchema } from "../policies.ts";
import { nullable, Text } from "../schema.ts";
import { UNSUPPORTED_UPDATE, unsupportedSchemas } from "./unsupported.ts";

const TARGET_STATES = ["Stopped", "Standby", "Running"] as const;
export const TargetState = (description: string) => Type.Union(TARGET_STATES.map((state) => Type.Literal(state)), { description });
export const Name = (description: string) => Type.String({ description: `${description} Small letters, digits and dashes, at most 63; neither begins nor ends with a dash.` });

export const StandbyBody = Type.Object(
  {
    compression: Type.Optional(nullable(CompressionSchema)),
    compression_delay: Type.Optional(Type.String({ description: "Go duration from now until compression begins, instead of the policy's.", examples: ["30s"] })),
    force: Type.Optional(Type.Boolean({ default: false, description: "Also with connections in use or sessions open. Connections are there again after the wake, sessions end. An extension." })),
  },
  { additionalProperties: false, title: "StandbyInstance" },
);

export const ForkBody = Type.Object(
  {
    name: Name("Of the new instance."),
    from_running: Type.Optional(Type.Boolean({ default: false, description: "A source that is Running may be forked; it stands still while its memory is written." })),
    target_state: Type.Optional(TargetState("State of the fork; the source's by default.")),
  },
  { additionalProperties: false, title: "ForkInstance" },
);

const ownUpdate = {
  auto_standby: Type.Optional(nullable(AutoStandbySchema)),
  snapshot_policy: Type.Optional(nullable(SnapshotPolicySchema)),
};
const OwnUpdate = Type.Object(ownUpdate);
export type UpdateBody = Static<typeof OwnUpdate>;
export const UpdateInstanceBody = Type.Object({ ...ownUpdate, ...unsupportedSchemas(UNSUPPORTED_UPDATE) }, { additionalProperties: false, title: "UpdateInstance" }) as unknown as typeof OwnUpdate;

const When = (description: string) => nullable(Type.String({ format: "date-time", description }));

export const AutoStandbyStatusSchema = Type.Object(
  {
    supported: Type.Boolean({ description: "Whether this host can see connections." }),
    configured: Type.Boolean({ description: "Whether the instance has a policy." }),
    enabled: Type.Boolean({ description: "Whether that policy is enabled." }),
    eligible: Type.Boolean({ description: "Whether it may go to sleep by itself as it is now: policy enabled, running, with an address." }),
    status: Type.Union(AUTO_STANDBY_STATUSES.map((one) => Type.Literal(one)), { description: "`active`: in use. `idle_countdown`: nobody is there, `countdown_remaining` runs. `ready_for_standby`, `standby_requested`: about to sleep. `disabled`, `ineligible`: it does not sleep by itself, `reason` says why. `error`: connections can't be seen, and it stays awake." }),
    reason: Type.Union(AUTO_STANDBY_REASONS.map((one) => Type.Literal(one)), { description: "`active_inbound_connections` also where it is a session or a request through an ingress that keeps it awake, and where a connection has just ended: the count may be 0 then." }),
    active_inbound_connections: Type.Integer({ description: "TCP connections from outside that are open now and count: idle ones too, without those that the policy ignores." }),
    tracking_mode: Text("How connections are seen."),
    idle_timeout: nullable(Text("The policy's, as a Go duration; null where it is not enabled.")),
    idle_since: When("When it became idle."),
    last_inbound_activity_at: When("When it was last seen in use."),
    next_standby_at: When("When it goes to sleep if nothing comes."),
    countdown_remaining: nullable(Text("Go duration until then.")),
    hold_until: When("Until when a hold keeps it awake."),
  },
  { title: "AutoStandbyStatus" },
);

export const statusView = (status: AutoStandbyStatus): Static<typeof AutoStandbyStatusSchema> => ({
  supported: status.supported,
  configured: status.configured,
  enabled: status.enabled,
  eligible: status.eligible,
  status: status.status,
  reason: status.reason,
  active_inbound_connections: status.activeInboundConnections,
  tracking_mode: status.trackingMode,
  idle_timeout: formatDurationOrNull(status.idleTimeoutMs),
  idle_since: formatTimeOrNull(status.idleSince),
  last_inbound_activity_at: formatTimeOrNull(status.lastInboundActivityAt),
  next_standby_at: formatTimeOrNull(status.nextStandbyAt),
  countdown_remaining: formatDurationOrNull(status.countdownRemainingMs),
  hold_until: formatTimeOrNull(status.holdUntil),
});

export const statusExample: Static<typeof AutoStandbyStatusSchema> = {
  supported: true,
  configured: true,
  enabled: true,
  eligible: true,
  status: "idle_countdown",
  reason: "idle_timeout_not_elapsed",
  active_inbound_connections: 0,
  tracking_mode: "ctnetlink_dump_v4_tcp",
  idle_timeout: "5m",
  idle_since: "2026-01-02T03:10:00.000Z",
  last_inbound_activity_at: "2026-01-02T03:10:00.000Z",
  next_standby_at: "2026-01-02T03:15:00.000Z",
  countdown_remaining: "3m12.5s",
  hold_until: null,
};
