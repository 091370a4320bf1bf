// snapshot create, ls, inspect, rm, restore, fork, schedule.
import { type Command, Option } from "commander";
import type { Api, Compression, Snapshot } from "./api.ts";
import { apiCommand, apiOf, oneOf, show, wholeNumber } from "./command.ts";
import { each, inspectEach } from "./each.ts";
import { usage } from "./fail.ts";
import { compression, COMPRESSION_HELP, duration, tag } from "./policies.ts";
import { type Target, targetOption } from "./sleep.ts";
import { forkLine, schedule, snapshotTable } from "./sleep-output.ts";

type Tags = Record<string, string>;
type Kind = Snapshot["kind"];
const OF_SNAPSHOT = "running where the snapshot has memory, else stopped";
const KINDS = { standby: "Standby", stopped: "Stopped" } as const;
const kindOption = (description: string) => new Option("--kind <kind>", `standby or stopped; ${description}`).argParser(oneOf(KINDS));

export function addSnapshotCommands(program: Command): void {
  const snapshot = program.command("snapshot").description("Take, list, restore and fork snapshots of instances");
  addCreate(snapshot);
  addList(snapshot);

  apiCommand(snapshot, "inspect <snapshot...>", "Show all that is on record of snapshots, as JSON")
    .action((refs: string[], _: unknown, command: Command) => inspectEach(refs, command, (api, ref) => api.snapshot(ref)));

  apiCommand(snapshot, "rm <snapshot...>", "Remove snapshots; instances that came from them stay whole")
    .action((refs: string[], _: unknown, command: Command) => each(refs, command, async (api, ref) => {
      const found = await api.snapshot(ref);
      await api.removeSnapshot(found.id);
      return found;
    }));

  apiCommand(snapshot, "restore <instance> <snapshot>", "Make an instance what it was; what it is now is lost")
    .addOption(targetOption(OF_SNAPSHOT))
    .action(async (ref: string, of: string, { targetState }: { targetState?: Target }, command: Command) =>
      show(command, await apiOf(command).restoreSnapshot(ref, of, targetState === undefined ? {} : { target_state: targetState }), ({ name }) => name));

  apiCommand(snapshot, "fork <snapshot> <name>", "Make a new instance of a snapshot")
    .addOption(targetOption(OF_SNAPSHOT))
    .action(async (ref: string, name: string, { targetState }: { targetState?: Target }, command: Command) =>
      show(command, await apiOf(command).forkSnapshot(ref, { name, ...(targetState === undefined ? {} : { target_state: targetState }) }), forkLine));

  addSchedule(snapshot);
}

interface CreateFlags { name?: string; kind?: Kind; tag?: Tags; compression?: Compression }

function addCreate(snapshot: Command): void {
  apiCommand(snapshot, "create <instance>", "Take a snapshot: memory and disk of one that runs or sleeps, the disk of a stopped one")
    .option("--name <name>", "unique among its snapshots")
    .addOption(kindOption("by default what its state allows"))
    .option("-t, --tag <key=value>", "label it; repeats", tag)
    .option("--compression <algorithm[:level]>", COMPRESSION_HELP, compression)
    .action(async (ref: string, flags: CreateFlags, command: Command) => {
      const api = apiOf(command);
      const { name, tag: tags, compression } = flags;
      const kind = flags.kind ?? (await fittingKind(api, ref));
      const body = { kind, ...(name === undefined ? {} : { name }), ...(tags === undefined ? {} : { tags }), ...(compression === undefined ? {} : { compression }) };
      show(command, await api.createSnapshot(ref, body), ({ id }) => id);
    });
}

const fittingKind = async (api: Api, ref: string): Promise<Kind> => ((await api.instance(ref)).state === "Stopped" ? "Stopped" : "Standby");

function addList(snapshot: Command): void {
  apiCommand(snapshot, "ls [instance]", "List snapshots, newest first; of one instance where it is named (by its id once it is removed)")
    .alias("list")
    .addOption(kindOption("only of this kind"))
    .option("--name <name>", "only of this name")
    .option("-t, --tag <key=value>", "only with this label; repeats", tag)
    .option("-q, --quiet", "print ids only")
    .action(async (ref: string | undefined, { kind, name, tag: tags = {}, quiet }: { kind?: Kind; name?: string; tag?: Tags; quiet?: boolean }, command: Command) => {
      const labels = Object.fromEntries(Object.entries(tags).map(([key, value]) => [`tags[${key}]`, value]));
      const found = await apiOf(command).snapshots({ source_instance_id: ref, kind, name, ...labels });
      show(command, found, () => (quiet ? found.map(({ id }) => id).join("\n") : snapshotTable(found)));
    });
}

interface ScheduleFlags { every?: string; keep?: number; maxAge?: string; prefix?: string; tag?: Tags; rm?: boolean }

function addSchedule(snapshot: Command): void {
  apiCommand(snapshot, "schedule <instance>", "Show when snapshots are taken by themselves; with --every, set it")
    .option("--every <time>", "how often, at least 1m", duration)
    .option("--keep <count>", "remove the oldest beyond so many", wholeNumber(1, 1_000_000))
    .option("--max-age <time>", "remove those that are older, such as 168h", duration)
    .option("--prefix <name>", "their names begin so")
    .option("-t, --tag <key=value>", "label them; repeats", tag)
    .option("--rm", "take no more; what was taken stays")
    .action(async (ref: string, flags: ScheduleFlags, command: Command) => {
      const api = apiOf(command);
      if (flags.rm) return api.removeSchedule(ref);
      show(command, await (flags.every === undefined ? shown(api, ref, flags) : api.setSchedule(ref, toSchedule(flags.every, flags))), schedule);
    });
}

function shown(api: Api, ref: string, { keep, maxAge, prefix, tag: tags }: ScheduleFlags) {
  if ([keep, maxAge, prefix, tags].some((flag) => flag !== undefined)) throw usage("Cannot set the schedule: --every says how often; add it");
  return api.schedule(ref);
}

function toSchedule(interval: string, { keep, maxAge, prefix, tag: tags }: ScheduleFlags) {
  if (keep === undefined && maxAge === undefined) throw usage("Cannot set the schedule: without --keep or --max-age its snapshots would pile up");
  return {
    interval,
    retention: { ...(keep === undefined ? {} : { max_count: keep }), ...(maxAge === undefined ? {} : { max_age: maxAge }) },
    ...(prefix === undefined ? {} : { name_prefix: prefix }),
    ...(tags === undefined ? {} : { metadata: tags }),
  };
}
