// Query parameters of `GET /snapshots`.
import { choiceParam, tagsParam, textParam } from "../query.ts";
import { KINDS } from "./schema.ts";

/** Absent, or an empty text, filters nothing. */
const given = (text: string | undefined) => text || undefined;

export const listQuery = {
  kind: choiceParam(KINDS, undefined, "Only snapshots of this kind."),
  name: textParam("Only snapshots of exactly this name, such as `before-upgrade`.", undefined, given),
  source_instance_id: textParam("Only snapshots of this instance: its id, also once it is deleted, or while it is there its name or a prefix of the id.", undefined, given),
  tags: tagsParam,
};
