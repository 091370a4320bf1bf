// volume create, ls, inspect, rm; attach and detach are in volume-mounts.ts.
import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import type { Volume } from "./api.ts";
import { apiCommand, apiOf, collect, show, tagsOf, wantsJson } from "./command.ts";
import { each, inspectEach } from "./each.ts";
import { gzipped } from "./compressed.ts";
import { CliError, systemReason, usage } from "./fail.ts";
import { ago, print, table } from "./output.ts";
import { addAttachCommands } from "./volume-mounts.ts";

interface CreateFlags { size?: number; from?: string; id?: string; tag?: string[] }

const DEFAULT_GB = 10;

export function addVolumeCommands(program: Command): void {
  const volume = program.command("volume").description("Disks that outlive the instances they are attached to");

  apiCommand(volume, "create <name>", "Create a volume")
    .option("-s, --size <size>", `how much fits into it, such as 10g; what is not written costs nothing (default ${DEFAULT_GB}g)`, wholeGigabytes)
    .option("--from <file>", "with what this tar holds, compressed (gzip, zstd) or not; - reads it from standard input")
    .option("--id <id>", "an id of yours (default: made up)")
    .option("-t, --tag <key=value>", "tag it; repeats", collect)
    .action(async (name: string, { size = DEFAULT_GB, from, id, tag }: CreateFlags, command: Command) => {
      const wanted = { name, size_gb: size, ...(id === undefined ? {} : { id }), tags: tagsOf(tag) };
      const api = apiOf(command);
      show(command, await (from === undefined ? api.createVolume(wanted) : api.createVolumeFrom(wanted, await archiveAt(from))), (one) => one.name);
    });

  apiCommand(volume, "ls", "List volumes")
    .alias("list")
    .option("-t, --tag <key=value>", "only those with this tag; repeats", collect)
    .option("-q, --quiet", "print names only")
    .action(async (flags: { tag?: string[]; quiet?: boolean }, command: Command) => {
      const api = apiOf(command), all = await api.volumes(tagsOf(flags.tag));
      if (flags.quiet || wantsJson(command)) return show(command, all, () => all.map(({ name }) => name).join("\n"));
      const names = new Map((await api.instances()).map(({ id, name }) => [id, name]));
      print(volumeTable(all, (id) => names.get(id) ?? id));
    });

  apiCommand(volume, "inspect <name...>", "Show all that is on record of volumes, as JSON")
    .alias("get")
    .action((names: string[], _: unknown, command: Command) => inspectEach(names, command, (api, name) => api.volume(name)));

  apiCommand(volume, "rm <name...>", "Remove volumes with all that is in them; not while an instance or a snapshot has them")
    .action((names: string[], _: unknown, command: Command) => each(names, command, async (api, name) => {
      await api.removeVolume(name);
      return name;
    }));

  addAttachCommands(volume);
}

/** As a tar.gz, which the API takes. */
async function archiveAt(path: string): Promise<ReadableStream<Uint8Array>> {
  if (path === "-" && process.stdin.isTTY) throw usage("Cannot read an archive from a terminal: redirect a file or a program to it");
  const input = path === "-" ? Bun.stdin.stream() : await fileAt(path);
  return gzipped(input, (cause) => new CliError(`Cannot read ${path === "-" ? "standard input" : path}: ${systemReason(cause)}`, "storage"));
}

async function fileAt(path: string): Promise<ReadableStream<Uint8Array>> {
  const file = Bun.file(path), found = await file.stat().catch((error: Error) => error);
  if (found instanceof Error) throw new CliError(`Cannot read ${path}: ${systemReason(found)}`, "storage");
  if (found.isDirectory()) throw new CliError(`Cannot read ${path}: it is a folder; give an archive, or \`tar -cz -C ${path} . | dormouse volume create NAME --from -\``, "storage");
  return file.stream();
}

/** `10g`, `10G`, `10GB`, `1t`. */
function wholeGigabytes(text: string): number {
  const match = /^(\d{1,5})\s*([gt])i?b?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError("It must be whole gigabytes, such as 10g.");
  return Number(match[1]) * (match[2]!.toLowerCase() === "t" ? 1024 : 1);
}

const volumeTable = (volumes: readonly Volume[], nameOf: (instanceId: string) => string): string =>
  table(
    ["NAME", "ID", "SIZE", "ATTACHED TO", "CREATED"],
    volumes.map(({ name, id, size_gb, attachments = [], created_at }) =>
      [name, id, `${size_gb}GB`, attachments.map(({ instance_id, mount_path, readonly }) => `${nameOf(instance_id)}:${mount_path}${readonly ? ":ro" : ""}`).join(" "), ago(created_at)]),
  );
