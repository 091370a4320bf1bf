// Finds an image by what people write: a reference, a digest, or the beginning of one.
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { PLATFORM } from "./manifest.ts";
import type { ContentRow, NameRow, Records } from "./records.ts";
import { formatReference, parseReference, type Reference } from "./reference.ts";

/** Shorter beginnings of a digest are taken for names. */
const MIN_PREFIX = 6;

/** A row made up for a content that has no name any more. */
const dangling = (content: ContentRow): NameRow => ({
  name: `${content.repository}@${content.digest}`, status: "ready", error: null, digest: content.digest, resolved: content.digest, previous: "",
  platform: PLATFORM, tags: {}, origin: { kind: "registry" }, private: false, createdAt: content.createdAt,
});

/** `image.not_found`, `name.ambiguous`, or `request.bad` where `text` can be no image's name. */
export function findRow(records: Records, text: string): Res<NameRow> {
  const prefix = digestPrefix(text);
  if (prefix?.startsWith("sha")) return byDigest(records, prefix, text);
  return parseReference(text).andThen((ref) => byReference(records, ref, prefix, text));
}

function byReference(records: Records, ref: Reference, prefix: string | null, text: string): Res<NameRow> {
  const name = formatReference(ref);
  const row = records.name(name);
  if (row !== null) return ok(row);
  if (ref.digest !== null) return byDigest(records, ref.digest, text);
  const found = prefix === null ? null : byDigest(records, `sha256:${prefix}`, text);
  if (found !== null && (found.isOk() || found.error.code === "name.ambiguous")) return found;
  return fail("image.not_found", `Cannot find the image ${name}: it was not pulled or loaded here`);
}

function digestPrefix(text: string): string | null {
  if (/^sha(?:256|512):[0-9a-f]+$/.test(text)) return text;
  return text.length >= MIN_PREFIX && /^[0-9a-f]{1,128}$/.test(text) ? text : null;
}

function byDigest(records: Records, prefix: string, text: string): Res<NameRow> {
  const named = records.names().filter((row) => row.digest.startsWith(prefix) || row.resolved === prefix);
  const contents = records.contents().filter((content) => content.digest.startsWith(prefix));
  const digests = new Set([...named.map((row) => row.digest), ...contents.map((content) => content.digest)]);
  if (digests.size > 1) return fail("name.ambiguous", `${JSON.stringify(text)} begins the digests of ${digests.size} images; write more of it`);
  // A content that is ready answers for its digest, even while a name of it is in work again.
  const row = named.find(({ status }) => status === "ready") ?? (contents[0] === undefined ? named[0] : dangling(contents[0]));
  return row === undefined ? fail("image.not_found", `Cannot find the image ${text}: it was not pulled or loaded here`) : ok(row);
}
