// ps, inspect, df, version.
import type { Command } from "commander";
import { REVISION, VERSION } from "../version.ts";
import type { Instance, Usage } from "./api.ts";
import { apiCommand, apiOf, show, wantsJson } from "./command.ts";
import { inspectEach } from "./each.ts";
import { CliError } from "./fail.ts";
import { ago, bytes, note, print, printJson, shorten, table } from "./output.ts";
import { describePorts, describeState, hasEnded } from "./states.ts";

const SHORT_ID = 12;

export function addInspectCommands(program: Command): void {
  apiCommand(program, "ps", "List instances")
    .option("-a, --all", "stopped ones too")
    .option("-q, --quiet", "print ids only")
    .action(async (options: { all?: boolean; quiet?: boolean }, command: Command) => {
      const instances = (await apiOf(command).instances()).filter((instance) => options.all || !hasEnded(instance));
      show(command, instances, () => (options.quiet ? instances.map(({ id }) => id).join("\n") : instanceTable(instances)));
    });

  apiCommand(program, "inspect <name...>", "Show all that is on record of instances or images, as JSON")
    .action((names: string[], _: unknown, command: Command) =>
      inspectEach<unknown>(names, command, (api, name) => api.instance(name).catch((cause: unknown) => orImage(cause, () => api.image(name)))));
}

export function addServerCommands(program: Command): void {
  apiCommand(program, "df", "Show what images, instances, snapshots and sleep take on disk")
    .action(async (_: unknown, command: Command) => {
      show(command, await apiOf(command).usage(), usageTable);
    });

  apiCommand(program, "version", "Show the version of this executable and of the daemon")
    .action(async (_: unknown, command: Command) => version(command));
}

/** Nothing of that name among the instances: perhaps an image; if neither, the instance's error is the better one. */
async function orImage(cause: unknown, image: () => Promise<unknown>): Promise<unknown> {
  if (!(cause instanceof CliError) || !cause.code.endsWith("not_found")) throw cause;
  try {
    return await image();
  } catch (other) {
    throw other instanceof CliError && other.code === "connection" ? other : cause;
  }
}

const instanceTable = (instances: readonly Instance[]): string =>
  table(
    ["ID", "NAME", "IMAGE", "CREATED", "STATUS", "IP", "PORTS"],
    instances.map((instance) => [
      instance.id.slice(0, SHORT_ID),
      instance.name,
      instance.image,
      ago(instance.created_at),
      shorten(describeState(instance)),
      instance.network?.ip ?? "",
      describePorts(instance.port_mappings),
    ]),
  );

/** What takes disk, and what is left of it. */
export function usageTable({ images, instances, snapshots, shared_disk_bytes, volumes, saved_memory_bytes, free_bytes }: Usage): string {
  const taken = images.blob_bytes + images.rootfs_bytes + instances.disk_bytes + snapshots.disk_bytes + shared_disk_bytes + volumes.disk_bytes + saved_memory_bytes;
  return table(["WHAT", "COUNT", "SIZE"], [
    ["images", String(images.count), bytes(images.rootfs_bytes)],
    ["their layers, as pulled", "", bytes(images.blob_bytes)],
    ["instances' disks and logs", String(instances.count), bytes(instances.disk_bytes)],
    ["snapshots' disks", String(snapshots.count), bytes(snapshots.disk_bytes)],
    ["disks shared by these", "", bytes(shared_disk_bytes)],
    ["volumes", String(volumes.count), bytes(volumes.disk_bytes)],
    ["saved memory", "", bytes(saved_memory_bytes)],
    ["in all", "", bytes(taken)],
    ["free", "", bytes(free_bytes)],
  ]);
}

async function version(command: Command): Promise<void> {
  const client = { version: VERSION, revision: REVISION, bun: Bun.version };
  const server = await apiOf(command).capabilities().then(
    (capabilities) => capabilities.server,
    (cause: unknown) => {
      if (!(cause instanceof CliError)) throw cause;
      return cause;
    },
  );
  const reached = !(server instanceof CliError);
  if (wantsJson(command)) return printJson({ client, server: reached ? server : null });
  print(`dormouse ${client.version} (${client.revision}, Bun ${client.bun})`);
  if (reached) print(`daemon   ${server.version} (API ${server.api_version})`);
  else note(`daemon   not reached: ${server.message}`);
}
