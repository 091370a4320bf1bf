// A row, its content and its job as the record that others see.
import type { Job } from "./jobs.ts";
import type { ContentRow, NameRow } from "./records.ts";
import type { ImageRecord } from "./service.ts";

export function recordOf(row: NameRow, content: ContentRow | null, job: Job | null): ImageRecord {
  const ready = row.status === "ready";
  return {
    name: row.name,
    digest: row.digest,
    status: row.status,
    error: row.error,
    platform: row.platform,
    config: ready ? (content?.config ?? null) : null,
    sizeBytes: ready ? (content?.sizeBytes ?? null) : null,
    queuePosition: job?.queuePosition() ?? null,
    tags: row.tags,
    createdAt: row.createdAt,
    progress: job?.progress() ?? null,
  };
}
