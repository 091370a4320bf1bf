// standby, restore, fork, update, auto-standby.
import { type Command, Option } from "commander";
import type { Api, AutoStandbyStatus, Compression, Instance, InstanceUpdate } from "./api.ts";
import { apiCommand, apiOf, oneOf, show } from "./command.ts";
import { each } from "./each.ts";
import { usage } from "./fail.ts";
import { addAutoStandbyOptions, type AutoStandbyFlags, autoStandbyOf, compression, COMPRESSION_HELP, duration } from "./policies.ts";
import { forkLine, status } from "./sleep-output.ts";

export function addSleepCommands(program: Command): void {
  apiCommand(program, "standby <instance...>", "Put running instances to sleep: saved to disk, and gone from memory")
    .option("-f, --force", "with connections in use, too; they go on after the wake")
    .option("--compression <algorithm[:level]>", COMPRESSION_HELP, compression)
    .option("--compression-delay <time>", "begin with that so much later, such as 30s", duration)
    .action((refs: string[], flags: StandbyFlags, command: Command) => each(refs, command, (api, ref) => api.standby(ref, standbyBody(flags))));

  apiCommand(program, "restore <instance...>", "Wake sleeping instances; they go on where they were")
    .action((refs: string[], _: unknown, command: Command) => each(refs, command, (api, ref) => api.restore(ref)));

  apiCommand(program, "fork <source> <name>", "Make a new instance of what another is now, or of a snapshot")
    .option("--from-running", "the source may be running; it is paused for a moment")
    .option("--snapshot", "the source is a snapshot")
    .addOption(targetOption("as the source; of a snapshot, running where it has memory"))
    .action((source: string, name: string, flags: ForkFlags, command: Command) => fork(source, name, flags, command));

  addUpdateCommand(program);

  apiCommand(program, "auto-standby <instance>", "Show whether and when an instance goes to sleep by itself")
    .option("--hold", "keep it awake for its idle time from now on")
    .action(async (ref: string, { hold }: { hold?: boolean }, command: Command) => {
      const api = apiOf(command);
      show<AutoStandbyStatus>(command, await (hold ? api.holdAutoStandby(ref) : api.autoStandby(ref)), status);
    });
}

interface StandbyFlags { force?: boolean; compression?: Compression; compressionDelay?: string }
const standbyBody = ({ force, compression, compressionDelay }: StandbyFlags) => ({
  ...(force ? { force } : {}),
  ...(compression === undefined ? {} : { compression }),
  ...(compressionDelay === undefined ? {} : { compression_delay: compressionDelay }),
});

const TARGETS = { running: "Running", standby: "Standby", stopped: "Stopped" } as const;
export type Target = (typeof TARGETS)[keyof typeof TARGETS];
export const targetOption = (byDefault: string): Option => new Option("--target-state <state>", `running, standby or stopped (default: ${byDefault})`).argParser(oneOf(TARGETS));

interface ForkFlags { fromRunning?: boolean; snapshot?: boolean; targetState?: Target }

async function fork(source: string, name: string, { fromRunning, snapshot, targetState }: ForkFlags, command: Command): Promise<void> {
  if (snapshot && fromRunning) throw usage("Cannot combine --snapshot with --from-running: a snapshot does not run");
  const body = { name, ...(targetState === undefined ? {} : { target_state: targetState }) };
  const api = apiOf(command);
  show<Instance>(command, await (snapshot ? api.forkSnapshot(source, body) : api.fork(source, { ...body, ...(fromRunning ? { from_running: true } : {}) })), forkLine);
}

interface UpdateFlags extends AutoStandbyFlags { compression?: Compression; compressionDelay?: string }

function addUpdateCommand(program: Command): void {
  addAutoStandbyOptions(apiCommand(program, "update <instance...>", "Change when instances go to sleep and wake, and how they are kept"), true)
    .option("--compression <algorithm[:level]>", COMPRESSION_HELP, compression)
    .option("--compression-delay <time>", "begin with that so much after a standby, such as 30s", duration)
    .action((refs: string[], flags: UpdateFlags, command: Command) => {
      const { autoStandby, ignorePort, ignoreSource, wake, compression, compressionDelay } = flags;
      if ([autoStandby, ignorePort, ignoreSource, wake, compression, compressionDelay].every((one) => one === undefined)) throw usage(`Cannot update ${refs.join(", ")}: no option says what to change`);
      return each(refs, command, (api, ref) => update(api, ref, flags));
    });
}

/** The API replaces a policy as a whole: what the flags leave open is read first. */
async function update(api: Api, ref: string, flags: UpdateFlags): Promise<Instance> {
  const { id, auto_standby, snapshot_policy } = await api.instance(ref);
  const autoStandby = autoStandbyOf(flags, auto_standby);
  const { compression, compressionDelay } = flags;
  const snapshotPolicy = { ...snapshot_policy, ...(compression === undefined ? {} : { compression }), ...(compressionDelay === undefined ? {} : { standby_compression_delay: compressionDelay }) };
  const change: InstanceUpdate = {
    ...(autoStandby === undefined ? {} : { auto_standby: autoStandby }),
    ...(compression === undefined && compressionDelay === undefined ? {} : { snapshot_policy: snapshotPolicy }),
  };
  return api.update(id, change);
}
