// Attaching and detaching volumes in words, for the OpenAPI document.
import { describeGroup, instanceParam, NAMED, pathParam } from "../describe.ts";
import { instanceExample } from "./schema.ts";

const volumeParam = pathParam("volumeId", "Exact id, exact name, or a prefix that only one id has.", "data");
const ofVolume = describeGroup("Instances", [instanceParam, volumeParam], [...NAMED, "volume.not_found", "instance.invalid_state", "host.storage"]);
const stopped = { ...instanceExample, state: "Stopped", stopped_at: "2026-01-02T03:05:06.000Z", exit_code: 0, current_phase: "stopped" };

export const attach = ofVolume({
  operationId: "attachVolume",
  summary: "Attach a volume",
  description: "To an instance that is `Stopped`; mounted from its next start on. A volume is one instance's alone, or `readonly` with any number of them.",
  bodyExample: { mount_path: "/data" },
  answers: { 200: { description: "Attached.", schema: "Instance", example: { ...stopped, volumes: [{ volume_id: "tz4a98xxat96iws9zmbrgj3a", mount_path: "/data", readonly: false, overlay: false }] } } },
  errors: ["volume.in_use", "size.invalid"],
});

export const detach = ofVolume({
  operationId: "detachVolume",
  summary: "Detach a volume",
  description: "From an instance that is `Stopped`. The volume and what is on it stay; what was written to an overlay over it is deleted.",
  answers: { 200: { description: "Detached.", schema: "Instance", example: stopped } },
});
