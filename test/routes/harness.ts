// The real app on a real port over in-memory services, and the contract's own client.
import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Hypeman from "@onkernel/hypeman";
import { errAsync } from "neverthrow";
import { DormouseError } from "../../src/errors.ts";
import { ingressMigrations, openIngress } from "../../src/host/ingress/ingress.ts";
import { openVolumes, volumeMigrations } from "../../src/host/volumes/volumes.ts";
import { createLogger } from "../../src/log.ts";
import { createApp } from "../../src/routes/app.ts";
import type { ApiDeps } from "../../src/routes/deps.ts";
import { Live } from "../../src/routes/live.ts";
import { listen } from "../../src/routes/server.ts";
import { trashIn } from "../support/trash.ts";
import { MemoryImages, memoryNetwork } from "./memory.ts";
import { MemorySleep } from "./memory-sleep.ts";

export function startApi() {
  const images = new MemoryImages();
  const instances = new MemorySleep();
  const live = new Live();
  const log: string[] = [];
  const logger = createLogger("debug", (line) => void log.push(line));
  const db = memoryDatabase(), dir = mkdtempSync(join(tmpdir(), "dormouse-api-")), trash = trashIn(dir);
  const volumes = openVolumes({ db, dir: join(dir, "volumes"), trash, nameOf: ({ kind, id }) => `${kind} ${id}` })._unsafeUnwrap();
  const ingresses = openIngress({ db, instances, wake: (ref) => errAsync(new DormouseError("instance.invalid_state", `Cannot wake ${ref}.`)), address: "127.0.0.1", log: logger });
  const deps: ApiDeps = {
    images: images as unknown as ApiDeps["images"],
    instances: instances as unknown as ApiDeps["instances"],
    ingresses,
    volumes,
    network: memoryNetwork as ApiDeps["network"],
    host: { version: "0.1.0-test", runtimeAvailable: true, diskUsage: async () => ({ instanceBytes: 30, snapshotBytes: 31, layerBytes: 32, volumeBytes: 34, memoryBytes: 33, freeBytes: 40 }) },
    live,
    log: logger,
  };
  const listening = listen(createApp(deps), { hostname: "127.0.0.1", port: 0 }, live, deps.log)._unsafeUnwrap();
  const client = new Hypeman({ apiKey: "any", baseURL: listening.url, maxRetries: 0 });
  const stop = async () => {
    await listening.stop();
    await ingresses.close();
    await trash.emptied();
    rmSync(dir, { recursive: true, force: true });
  };
  return { images, instances, ingresses, volumes, dir, live, log, deps, url: listening.url, client, stop };
}

function memoryDatabase(): Database {
  const db = new Database(":memory:", { strict: true });
  db.run("PRAGMA foreign_keys = ON");
  for (const { sql } of [...ingressMigrations, ...volumeMigrations]) db.run(sql);
  return db;
}

export type Api = ReturnType<typeof startApi>;

/** With the instance `sh`, which runs. */
export async function startApiWithSh(): Promise<Api> {
  const api = startApi();
  const { id } = await api.client.instances.create({ name: "sh", image: "busybox" });
  api.instances.change(id, { state: "Running" });
  return api;
}

/** Resolves once `holds` does; the test's own limit ends a wait in vain. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await Bun.sleep(5);
}

export const json = (body: unknown, headers: Record<string, string> = {}) => ({
  method: "POST",
  headers: { "content-type": "application/json", ...headers },
  body: JSON.stringify(body),
});

/** What the contract's client threw: status and body. */
export async function failure(call: Promise<unknown>): Promise<{ status: unknown; code: string; details?: object }> {
  const thrown = await call.then(() => null, (error: unknown) => error);
  if (!(thrown instanceof Hypeman.APIError)) throw new Error("the call did not fail");
  return { status: thrown.status, ...(thrown.error as { code: string }) };
}

/** Options of a call that the client has made before. */
export const retried = { headers: { "X-Stainless-Retry-Count": "1" } };
