// Fields of the contract that Dormouse does not implement yet. Each accepts only what means "not wanted"; all else is
// 400 not_supported naming the field, so that nothing is accepted and forgotten.
import { type TSchema, Type } from "@sinclair/typebox";
import { DormouseError } from "../../errors.ts";
import { parseSize } from "../format.ts";

interface Unsupported {
  /** The accepted values, for people. */
  readonly only: string;
  readonly isNeutral: (value: unknown) => boolean;
}
export type UnsupportedFields = Readonly<Record<string, Unsupported>>;

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

/** `{}`, or an object with these very fields and values only. */
const onlyObject = (allowed: Readonly<Record<string, unknown>>) => (value: unknown) =>
  isObject(value) && Object.entries(value).every(([key, one]) => Object.hasOwn(allowed, key) && (one === null || one === allowed[key]));

const noText = { only: "an empty string", isNeutral: (value: unknown) => value === "" };
const noList = { only: "an empty list", isNeutral: (value: unknown) => Array.isArray(value) && value.length === 0 };
const noObject = { only: "an empty object", isNeutral: onlyObject({}) };
const noHealthCheck = { only: '`{"type":"none"}`', isNeutral: onlyObject({ type: "none" }) };
const noRestart = { only: '`{"policy":"never"}`', isNeutral: onlyObject({ policy: "never" }) };
const noTtl = { only: "`0s`", isNeutral: (value: unknown) => value === "" || value === "0" || value === "0s" };

/** Of `POST /instances`. `null` is neutral for each. */
export const UNSUPPORTED_CREATE: UnsupportedFields = {
  credentials: noObject,
  devices: noList,
  disk_io_bps: noText,
  expires_at: noText,
  gpu: { only: "an empty object", isNeutral: onlyObject({ profile: "" }) },
  health_check: noHealthCheck,
  hotplug_size: {
    only: "a size of 0",
    isNeutral: (value) => value === "" || (typeof value === "string" && parseSize(value, "hotplug_size").unwrapOr(1) === 0),
  },
  restart_policy: noRestart,
  skip_guest_agent: { only: "`false`: the agent is part of our init", isNeutral: (value) => value === false },
  ttl: noTtl,
};

/** Of `PATCH /instances/{id}`. Environment variables could change only where credentials name them. */
export const UNSUPPORTED_UPDATE: UnsupportedFields = {
  env: noObject,
  expires_at: noText,
  health_check: noHealthCheck,
  restart_policy: noRestart,
  ttl: noTtl,
};

/** Of `network` in `POST /instances`. */
export const UNSUPPORTED_NETWORK: UnsupportedFields = {
  bandwidth_download: noText,
  bandwidth_upload: noText,
  egress: { only: '`{"enabled":false}`', isNeutral: onlyObject({ enabled: false }) },
};

/** Their schemas: any value passes, so that `refuseUnsupported` can answer with its own code. */
export const unsupportedSchemas = (fields: UnsupportedFields): Record<string, TSchema> =>
  Object.fromEntries(
    Object.entries(fields).map(([name, { only }]) => [name, Type.Optional(Type.Unknown({ description: `Not implemented yet: accepts only ${only} or null.` }))]),
  );

/** Throws for the first field of `body` that asks for what is not there. `prefix` is where `body` stands. */
export function refuseUnsupported(body: object, fields: UnsupportedFields, prefix = ""): void {
  for (const [name, { only, isNeutral }] of Object.entries(fields)) {
    const value: unknown = (body as Record<string, unknown>)[name];
    if (value === undefined || value === null || isNeutral(value)) continue;
    const field = prefix + name;
    throw new DormouseError("request.not_supported", `Cannot honour field ${field}: it is not implemented yet, and accepts only ${only.replaceAll("`", "")}. Leave it out.`, { details: { field } });
  }
}
