// start, stop, rm.
import type { Command } from "commander";
import type { Api, Instance } from "./api.ts";
import { apiCommand, wholeNumber } from "./command.ts";
import { each } from "./each.ts";
import { CliError } from "./fail.ts";
import { notStarted } from "./states.ts";

/** What the API takes. */
const MAX_GRACE_SECONDS = 3600;

export function addLifecycleCommands(program: Command): void {
  apiCommand(program, "start <instance...>", "Start stopped instances")
    .action((refs: string[], _: unknown, command: Command) => each(refs, command, start));

  apiCommand(program, "stop <instance...>", "Stop running instances: the image's stop signal, then SIGKILL")
    .option("-t, --time <seconds>", "how long the program has before SIGKILL (default 10)", wholeNumber(0, MAX_GRACE_SECONDS))
    .action((refs: string[], options: { time?: number }, command: Command) =>
      each(refs, command, (api, ref) => unless("Stopped", api, ref, api.stop(ref, options.time === undefined ? undefined : options.time * 1000))));

  apiCommand(program, "rm <instance...>", "Remove instances and their disks")
    .option("-f, --force", "running ones too, without a grace period")
    .action((refs: string[], options: { force?: boolean }, command: Command) =>
      each(refs, command, (api, ref) => remove(api, ref, options.force === true)));
}

/** An instance that is where the verb leads already is no failure, as with docker start and stop. */
async function unless(goal: Instance["state"], api: Api, ref: string, verb: Promise<Instance>): Promise<Instance> {
  try {
    return await verb;
  } catch (cause) {
    if (!(cause instanceof CliError) || cause.code !== "invalid_state") throw cause;
    const instance = await api.instance(ref);
    if (instance.state !== goal) throw cause;
    return instance;
  }
}

async function start(api: Api, ref: string): Promise<Instance> {
  const { id } = await unless("Running", api, ref, api.start(ref));
  const instance = await api.wait(id, "Running");
  if (notStarted(instance)) throw new CliError(`Cannot start ${ref}: ${instance.exit_message ?? instance.state_error ?? "the daemon gives no reason"}`, "start_failed");
  return instance;
}

async function remove(api: Api, ref: string, force: boolean): Promise<Instance> {
  const instance = await api.instance(ref);
  if (!force && !["Created", "Stopped", "Standby", "Unknown"].includes(instance.state))
    throw new CliError(`Cannot remove ${ref}: it is ${instance.state}; stop it first, or use rm -f`, "invalid_state");
  await api.remove(instance.id, !force);
  return instance;
}
