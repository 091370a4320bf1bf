// How volumes are named on a command line: NAME:/PATH[:ro][:overlay=SIZE]; volume attach and detach.
import { type Command, InvalidArgumentError } from "commander";
import type { Instance, VolumeMount } from "./api.ts";
import { apiCommand, apiOf, memorySize, wantsJson } from "./command.ts";
import { usage } from "./fail.ts";
import { print, printJson } from "./output.ts";

/** As `run --volume` and `volume attach` write it. */
export const MOUNT_FORM = "name:/path[:ro]";

/** For an option that repeats. */
export const volumeMount = (text: string, before: readonly VolumeMount[] = []): VolumeMount[] => [...before, parseMount(text)];

function parseMount(text: string): VolumeMount {
  if (/^[/.~]/.test(text)) throw new InvalidArgumentError("Folders of this host can't be mounted: it shares none of its files with a machine. Make a volume (dormouse volume create NAME) and write NAME:/PATH.");
  const [volume_id = "", mount_path = "", ...options] = text.split(/[:,]/);
  if (volume_id === "" || !mount_path.startsWith("/")) throw new InvalidArgumentError("It must be NAME:/PATH, NAME:/PATH:ro, or NAME:/PATH:overlay=SIZE.");
  return options.reduce<VolumeMount>((mount, option) => ({ ...mount, ...parseOption(option) }), { volume_id, mount_path });
}

function parseOption(option: string): Partial<VolumeMount> {
  if (option === "ro") return { readonly: true };
  if (option === "rw") return {};
  const [, size] = /^overlay=(.+)$/.exec(option) ?? [];
  if (size !== undefined) return { readonly: true, overlay: true, overlay_size: memorySize(size) };
  throw new InvalidArgumentError(`There is no option ${JSON.stringify(option)}; there are ro, rw and overlay=SIZE (writes go to a disk of the instance's own).`);
}

export function addAttachCommands(volume: Command): void {
  apiCommand(volume, `attach <instance> <${MOUNT_FORM}...>`, "Attach volumes to a stopped instance, from its next start on; `:overlay=1g` has it write to a disk of its own over one")
    .action(async (instance: string, texts: string[], _: unknown, command: Command) => {
      const api = apiOf(command);
      await each(texts.map(mountArgument), command, async ({ volume_id, ...how }) => [volume_id, await api.attachVolume(instance, volume_id, how)]);
    });

  apiCommand(volume, "detach <instance> <volume...>", "Detach volumes from a stopped instance; they stay, and what it wrote over them goes")
    .action(async (instance: string, volumes: string[], _: unknown, command: Command) => {
      const api = apiOf(command);
      await each(volumes, command, async (name) => [name, await api.detachVolume(instance, name)]);
    });
}

/** One after the other, as the order counts. For programs the instance as it is after the last. */
async function each<T>(all: readonly T[], command: Command, work: (one: T) => Promise<readonly [name: string, instance: Instance]>): Promise<void> {
  let last: Instance | null = null;
  for (const one of all) {
    const [name, instance] = await work(one);
    last = instance;
    if (!wantsJson(command)) print(name);
  }
  if (last !== null && wantsJson(command)) printJson(last);
}

/** Arguments have no parser that repeats: what is wrong with one is told as for an option. */
function mountArgument(text: string): VolumeMount {
  try {
    return parseMount(text);
  } catch (cause) {
    throw cause instanceof InvalidArgumentError ? usage(`Cannot read ${JSON.stringify(text)}: ${cause.message}`) : cause;
  }
}
