// run: pull, create, and stay with the instance until its program ends.
import { type Command, Option } from "commander";
import type { Api, Instance, InstanceCreate, PortMapping, VolumeMount } from "./api.ts";
import { apiCommand, apiOf, collect, environment, memorySize, outcome, portMapping, wantsJson, wholeNumber } from "./command.ts";
import { requireTerminal } from "./exec.ts";
import { CliError, STATUS_DORMOUSE, usage } from "./fail.ts";
import { note, plain, print, printJson } from "./output.ts";
import { addAutoStandbyOptions, type AutoStandbyFlags, autoStandbyOf } from "./policies.ts";
import { pullImage } from "./pull.ts";
import { runSession } from "./session.ts";
import { MOUNT_FORM, volumeMount } from "./volume-mounts.ts";
import { exitStatus, hasEnded, notStarted } from "./states.ts";

interface RunFlags extends AutoStandbyFlags {
  name?: string;
  env?: string[];
  memory?: string;
  cpus?: number;
  entrypoint?: string;
  publish?: PortMapping[];
  volume?: VolumeMount[];
  rm?: boolean;
  detach?: boolean;
  interactive?: boolean;
  tty?: boolean;
  pull: "missing" | "always" | "never";
  quiet?: boolean;
}

const MAX_CPUS = 16;
/** The most that the logs route takes: an attached run shows all from the first line. */
const WHOLE_LOG = 1_000_000;

export function addRunCommand(program: Command): void {
  addAutoStandbyOptions(apiCommand(program, "run <image> [command...]", "Run an image in a virtual machine of its own; ends with its program's status"), false)
    .passThroughOptions()
    .option("--name <name>", "name of the instance (default: made from the image's)")
    .option("-e, --env <name[=value]>", "set a variable; repeats", collect)
    .option("-m, --memory <size>", "memory, such as 512m or 2g (default 1g)", memorySize)
    .option("--cpus <count>", "virtual CPUs (default 2)", wholeNumber(1, MAX_CPUS))
    .option("--entrypoint <program>", "run this instead of the image's entrypoint")
    .option("-p, --publish <host:guest[/udp]>", "publish a port; repeats", portMapping)
    .option(`-v, --volume <${MOUNT_FORM}>`, "mount a volume, readonly with :ro, or written over with :overlay=1g; repeats", volumeMount)
    .option("--rm", "remove the instance when its program has ended")
    .option("-d, --detach", "print its id and leave it running")
    .option("-i, --interactive", "pass standard input on")
    .option("-t, --tty", "give it a terminal; ctrl-p ctrl-q leaves it running")
    .addOption(new Option("--pull <when>", "when to ask the registry").choices(["missing", "always", "never"]).default("missing"))
    .option("-q, --quiet", "show no progress")
    .action((image: string, command: string[], flags: RunFlags, self: Command) => run(image, command, flags, self));
}

async function run(image: string, command: readonly string[], flags: RunFlags, self: Command): Promise<void> {
  if (flags.detach && flags.rm) throw usage("Cannot combine --detach with --rm: the one who removes it is this command, and it would be gone");
  if (flags.detach && flags.interactive && !flags.tty) throw usage("Cannot combine --detach with -i: nobody would write to its standard input; leave out -i");
  if (flags.tty && flags.interactive && !flags.detach) requireTerminal();
  const api = apiOf(self);
  const body = toCreate(image, command, flags);
  await ensureImage(api, image, flags);
  if (flags.detach) return detached(api, await api.create(body), self);
  const { instance, interrupted } = await create(api, body);
  const end = await new Attached(api, instance, flags).finish(interrupted);
  if (end === "detached") return;
  if (flags.rm) await api.remove(instance.id, false);
  report(end);
}

function toCreate(image: string, command: readonly string[], flags: RunFlags): InstanceCreate {
  const autoStandby = autoStandbyOf(flags, undefined);
  return {
    name: flags.name ?? makeName(image),
    image,
    env: environment(flags.env),
    ...(flags.memory === undefined ? {} : { size: flags.memory }),
    ...(flags.cpus === undefined ? {} : { vcpus: flags.cpus }),
    ...(flags.entrypoint === undefined ? {} : { entrypoint: [flags.entrypoint] }),
    ...(command.length === 0 ? {} : { cmd: command }),
    ...(flags.publish === undefined ? {} : { port_mappings: flags.publish }),
    ...(flags.volume === undefined ? {} : { volumes: flags.volume }),
    ...(flags.tty ? { tty: true } : {}),
    ...(flags.interactive ? { open_stdin: true } : {}),
    ...(autoStandby === undefined ? {} : { auto_standby: autoStandby }),
  };
}

/** A signal meanwhile is its first: whoever dies of it would leave an instance running that nobody knows of. */
async function create(api: Api, body: InstanceCreate): Promise<{ instance: Instance; interrupted: boolean }> {
  let interrupted = false;
  const onSignal = () => {
    if (interrupted) process.exit(STATUS_DORMOUSE);
    interrupted = true;
    note(`${body.name} is being made, and will be stopped (once more to leave it as it is)`);
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  try {
    const instance = await api.create(body);
    return { instance, interrupted };
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}

const NAME_LETTERS = 40;

/** `nginx-x7k2` for `docker.io/library/nginx:1.27`. */
export function makeName(image: string): string {
  const last = image.split("@")[0]?.split("/").at(-1)?.split(":")[0] ?? "";
  const stem = last.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, NAME_LETTERS).replace(/^-+|-+$/g, "") || "instance";
  const letters = crypto.getRandomValues(new Uint8Array(4));
  return `${stem}-${Array.from(letters, (n) => (n % 36).toString(36)).join("")}`;
}

async function ensureImage(api: Api, name: string, { pull, quiet }: RunFlags): Promise<void> {
  if (pull === "never") return;
  if (pull === "missing" && (await isReady(api, name))) return;
  await pullImage(api, name, quiet === true);
}

async function isReady(api: Api, name: string): Promise<boolean> {
  try {
    return (await api.image(name)).status === "ready";
  } catch (cause) {
    if (cause instanceof CliError && cause.code === "image_not_found") return false;
    throw cause;
  }
}

async function detached(api: Api, { id }: Instance, self: Command): Promise<void> {
  const instance = await api.wait(id, "Running");
  if (notStarted(instance)) throw startFailure(instance);
  if (wantsJson(self)) printJson(instance);
  else print(id);
}

function report(instance: Instance): void {
  if (notStarted(instance)) throw startFailure(instance);
  const status = exitStatus(instance);
  if (status >= 125 && instance.exit_message) note(`dormouse: ${instance.name}: ${plain(instance.exit_message)}`);
  outcome.status = status;
}

const startFailure = ({ name, exit_message, state_error }: Instance): CliError =>
  new CliError(`Cannot run ${name}: ${plain(exit_message ?? state_error ?? "the daemon gives no reason")}`, "start_failed");

const isLogMissing = (cause: unknown): boolean => cause instanceof CliError && cause.code === "log_not_found";

/** An instance whose output we show and whose end we wait for. */
class Attached {
  private signals = 0;
  private stopping: Promise<unknown> | null = null;
  /** What went wrong while we asked it to stop; thrown at the end. */
  private stopFailure: unknown = null;
  private shown = false;

  constructor(private readonly api: Api, private readonly instance: Instance, private readonly flags: RunFlags) {}

  /** `interrupted`: before there was anything to be stopped. */
  async finish(interrupted: boolean): Promise<Instance | "detached"> {
    const onSignal = () => this.onSignal();
    process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
    if (interrupted) onSignal();
    try {
      if ((await (this.flags.tty ? this.terminal() : this.follow())) === "detached") return "detached";
      const end = await this.api.wait(this.instance.id, "Stopped");
      await this.stopping;
      if (this.stopFailure !== null && !hasEnded(end)) throw this.stopFailure;
      return end;
    } finally {
      process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
    }
  }

  /** The first asks it to stop, the second ends it. With a terminal, ctrl-c is a key of the program's. */
  private onSignal(): void {
    const { id, name } = this.instance;
    this.signals++;
    if (this.signals === 1) note(`stopping ${name} (once more to kill it)`);
    const asked = this.signals === 1 ? this.api.stop(id) : this.api.stop(id, 0);
    this.stopping = asked.catch((cause: unknown) => {
      this.stopFailure = cause;
    });
  }

  private async follow(): Promise<void> {
    await Promise.all([this.printLog(), this.flags.interactive ? this.session(true) : null]);
  }

  /** From its first line until the instance has stopped. */
  private async printLog(): Promise<void> {
    const { id } = this.instance;
    const printAll = async () => {
      for await (const line of this.api.logs(id, { follow: true, tail: WHOLE_LOG })) print(line);
    };
    try {
      await printAll();
    } catch (cause) {
      if (!isLogMissing(cause)) throw cause;
      // Its monitor makes the log, and was not there yet. One that never came leaves none.
      if (hasEnded(await this.api.wait(id, "Running"))) await printAll().catch((again: unknown) => { if (!isLogMissing(again)) throw again; });
      else await printAll();
    }
  }

  private async terminal(): Promise<"detached" | void> {
    const end = await this.session(false);
    // A program that was quicker than our session has left what it said in the log.
    if (end !== "detached" && !this.shown) await this.printLog();
    return end;
  }

  private async session(inputOnly: boolean): Promise<"detached" | void> {
    const { id } = this.instance;
    const instance = await this.api.wait(id, "Running");
    if (hasEnded(instance)) return;
    try {
      const end = await runSession({
        api: this.api,
        path: `/instances/${id}/attach`,
        start: null,
        interactive: this.flags.interactive === true,
        tty: this.flags.tty === true && process.stdin.isTTY === true,
        detachable: true,
        inputOnly,
        onOutput: () => void (this.shown = true),
      });
      if (end.how === "detached") return this.leave("runs on");
    } catch (cause) {
      // A machine that has ended, or sleeps, takes its session along; its record says how, and the caller reads it.
      if (!(cause instanceof CliError) || cause.code === "connection") throw cause;
      const { state } = await this.api.instance(id);
      if (state === "Standby") return this.leave(`was put to sleep; \`dormouse restore ${this.instance.name}\` wakes it`);
      // About to end: the session goes a moment before the record says so.
      if (state !== "Stopped" && state !== "Shutdown" && state !== "Unknown") throw cause;
    }
  }

  private leave(why: string): "detached" {
    note(`${this.instance.name} ${why}`);
    return "detached";
  }
}
