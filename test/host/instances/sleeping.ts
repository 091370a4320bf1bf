// What the tests of sleep, forks and snapshots over stand-in monitors share.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { AsyncRes } from "../../../src/errors.ts";
import type { CreateInstance, Instance, InstanceState } from "../../../src/host/instances/service.ts";
import { Compressor } from "../../../src/host/snapshots/compression/compressor.ts";
import { sqliteRecords } from "../../../src/host/snapshots/compression/records.ts";
import { until } from "../../support/until.ts";
import { monitorsIn, never, open, request, type Change, type Fixture } from "./fixture.ts";

/** A new instance whose guest is `cmd` (stand-in.ts), Running. */
export async function running(fixture: Fixture, name: string, cmd: readonly string[] = ["serve"], change: Partial<CreateInstance> = {}): Promise<Instance> {
  (await fixture.instances.create(request(name, cmd, change)))._unsafeUnwrap();
  return (await fixture.instances.wait(name, "Running", 20_000, never()))._unsafeUnwrap().instance;
}

export async function asleep(fixture: Fixture, name: string, cmd?: readonly string[], change?: Partial<CreateInstance>): Promise<Instance> {
  await running(fixture, name, cmd, change);
  return (await fixture.instances.standby(name))._unsafeUnwrap();
}

/** Names in a folder of the data directory; none where it is not there. */
export const entries = ({ root }: Fixture, folder: string): string[] => (existsSync(join(root, folder)) ? readdirSync(join(root, folder)) : []);
export const generations = (fixture: Fixture): string[] => entries(fixture, "memory");
/** Files of all disks that are anybody's. */
export const disks = (fixture: Fixture): string[] => [
  ...entries(fixture, "disks"), ...entries(fixture, "snapshots").flatMap((id) => entries(fixture, `snapshots/${id}`)),
  ...entries(fixture, "instances").filter((id) => !id.startsWith(".")).flatMap((id) => entries(fixture, `instances/${id}`).filter((name) => name.startsWith("upper"))),
];

export const stateOf = ({ instances }: Fixture, name: string): InstanceState => instances.get(name)._unsafeUnwrap().state;
export const codeOf = async (result: AsyncRes<unknown>): Promise<string> => (await result)._unsafeUnwrapErr().code;
export const remove = async (fixture: Fixture, name: string): Promise<void> => (await fixture.instances.remove(name, { graceful: false }))._unsafeUnwrap();

/** A save that was asked for has begun: its generation is there. */
export const begun = (fixture: Fixture, before = 0): Promise<boolean> => until("a save to begin", () => generations(fixture).length > before);

/** What stands on record and on disk, for comparisons. */
export const picture = (fixture: Fixture, name: string) => ({ state: stateOf(fixture, name), generations: generations(fixture), monitors: monitorsIn(fixture.root).length });

/** With the real compressor, which compresses nothing unless it is asked to. */
export async function openCompressing(root?: string, change: Change = {}): Promise<Fixture & { readonly compressor: Compressor }> {
  let compressor: Compressor | null = null;
  const fixture = await open(root, (db, trash) => {
    compressor = new Compressor({ records: sqliteRecords(db), trash, failed() {} });
    return { compression: compressor, ...(typeof change === "function" ? change(db, trash) : change) };
  });
  return { ...fixture, compressor: compressor! };
}
