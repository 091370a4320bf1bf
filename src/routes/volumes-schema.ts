// Bodies and queries of the volume routes, and how a volume of the domain looks on the wire.
import { type Static, Type } from "@sinclair/typebox";
import type { CreateVolume, Volume } from "../host/volumes/service.ts";
import { bad, orThrow } from "./errors.ts";
import { checkName, formatTime } from "./format.ts";
import { type Params, tagsParam } from "./query.ts";
import { Tags, Time } from "./schema.ts";

const GIB = 2 ** 30;
const SIZE = "Size in GB of 2^30 bytes, 1 to 16383. What is not written costs nothing on the host.";
const ID = "An id of yours: 1 to 63 small letters, digits and inner dashes. Made up by default.";

export const CreateVolumeBody = Type.Object(
  {
    name: Type.String({ description: "A DNS label, unique among volumes." }),
    size_gb: Type.Integer({ description: SIZE }),
    id: Type.Optional(Type.String({ description: ID })),
    tags: Type.Optional(Tags),
  },
  { additionalProperties: false, title: "CreateVolume" },
);

const Attachment = Type.Object(
  { instance_id: Type.String(), mount_path: Type.String({ description: "Where it is mounted in the guest." }), readonly: Type.Boolean() },
  { title: "VolumeAttachment" },
);
export const VolumeSchema = Type.Object(
  {
    id: Type.String({ description: "CUID2, or the id that was asked for." }),
    name: Type.String(),
    size_gb: Type.Integer({ description: "In GB of 2^30 bytes." }),
    created_at: Time("When it was created."),
    attachments: Type.Array(Attachment, { description: "The instances that have it, whether they run or not: one that writes it, or any number readonly." }),
    tags: Tags,
  },
  { title: "Volume" },
);

export function toCreateVolume({ name, size_gb, id, tags }: { name: string; size_gb: number; id?: string | undefined; tags?: Record<string, string> | undefined }): CreateVolume {
  return { name: orThrow(checkName(name)), sizeBytes: size_gb * GIB, id: id ?? null, tags: tags ?? {} };
}

const required = (text: string | undefined, name: string): string => {
  if (text === undefined || text === "") throw bad(`Cannot accept the request without query parameter ${name}: it is required.`, name);
  return text;
};

/** What is asked for beside an archive, whose body leaves room in the query only. */
export const archiveQuery: Params<{ name: string; size_gb: number; id: string | undefined; tags: Record<string, string> }> = {
  name: { schema: { type: "string" }, description: "A DNS label, unique among volumes.", example: "data", required: true, read: required },
  size_gb: {
    schema: { type: "integer" }, description: `${SIZE} The archive's content must fit.`, example: 10, required: true,
    read: (text, name) => {
      if (/^\d{1,9}$/.test(required(text, name))) return Number(text);
      throw bad(`Cannot read query parameter ${name}: it must be a whole number.`, name);
    },
  },
  id: { schema: { type: "string" }, description: ID, read: (text) => text },
  tags: { ...tagsParam, description: "Tags of the volume: `tags[team]=backend&tags[env]=staging`; as JSON, `{\"team\": \"backend\"}`." },
};

export const volumeView = ({ id, name, sizeBytes, createdAt, attachments, tags }: Volume): Static<typeof VolumeSchema> => ({
  id,
  name,
  size_gb: sizeBytes / GIB,
  created_at: formatTime(createdAt),
  attachments: attachments.map(({ instanceId, mountPath, readonly }) => ({ instance_id: instanceId, mount_path: mountPath, readonly })),
  tags,
});

export const createVolumeExample = { name: "data", size_gb: 10, tags: { team: "web" } };
export const volumeExample: Static<typeof VolumeSchema> = {
  id: "tz4a98xxat96iws9zmbrgj3a",
  name: "data",
  size_gb: 10,
  created_at: "2026-01-02T03:04:05.000Z",
  attachments: [{ instance_id: "pfh0haxfpzowht3oi213cqos", mount_path: "/var/lib/data", readonly: false }],
  tags: { team: "web" },
};
