// The volume routes in words, for the OpenAPI document.
import { DELETED, describeGroup, pathParam } from "./describe.ts";
import { describeQuery, tagsQuery } from "./query.ts";
import { archiveQuery, createVolumeExample, volumeExample } from "./volumes-schema.ts";

const ofAny = describeGroup("Volumes", [], []);
const ofVolume = describeGroup("Volumes", [pathParam("id", "Exact id, exact name, or a prefix that only one id has.", "data")], ["volume.not_found", "name.ambiguous"]);

export const create = ofAny({
  operationId: "createVolume",
  summary: "Create a volume",
  description: "An empty disk (ext4) that outlives the instances it is attached to. Instances get it when they are created, or while they are stopped.",
  bodyExample: createVolumeExample,
  answers: { 201: { description: "It can be attached.", schema: "Volume", example: { ...volumeExample, attachments: [] } } },
  errors: ["name.invalid", "size.invalid", "volume.already_exists", "host.storage"],
});

export const createFromArchive = ofAny({
  operationId: "createVolumeFromArchive",
  summary: "Create a volume from an archive",
  description: [
    "With what a tar.gz holds: owners, modes, times, links, holes. It is read as it comes, of any length. An entry outside of the archive's root, one behind a symbolic link, or content that does not fit fails it, and nothing of it stays; so does a connection that breaks off, or over which nothing comes for five minutes.",
    "`tar -cz -C site . | curl -T - -X POST -H 'Content-Type: application/gzip' 'http://127.0.0.1:4973/volumes/from-archive?name=site&size_gb=1'`",
  ].join("\n\n"),
  parameters: describeQuery(archiveQuery),
  bodyType: "application/gzip",
  answers: { 201: { description: "It can be attached.", schema: "Volume", example: { ...volumeExample, attachments: [] } } },
  errors: ["name.invalid", "size.invalid", "volume.archive_invalid", "volume.archive_too_large", "volume.already_exists", "host.storage"],
});

export const list = ofAny({
  operationId: "listVolumes",
  summary: "List volumes",
  description: "Oldest first.",
  parameters: describeQuery(tagsQuery),
  answers: { 200: { description: "The volumes.", schema: "Volume", list: true, example: [volumeExample] } },
});

export const get = ofVolume({
  operationId: "getVolume",
  summary: "Get a volume",
  description: "With the instances that have it.",
  answers: { 200: { description: "The volume.", schema: "Volume", example: volumeExample } },
});

export const remove = ofVolume({
  operationId: "deleteVolume",
  summary: "Delete a volume",
  description: "With all that is in it. Refused while an instance or a snapshot has it.",
  answers: DELETED,
  errors: ["volume.in_use", "host.storage"],
});
