// The command line: which commands there are, and how each ends.
import { Command, CommanderError } from "commander";
import { REVISION, VERSION } from "../version.ts";
import { DEFAULT_HOST } from "./api.ts";
import { helpOf, outcome, wantsJson } from "./command.ts";
import { addCopyCommand } from "./cp.ts";
import { addDoctorCommand } from "./doctor.ts";
import { addExecCommand } from "./exec.ts";
import { CliError, STATUS_BROKEN_PIPE, STATUS_DORMOUSE, STATUS_FAILED, STATUS_USAGE } from "./fail.ts";
import { addImageCommands } from "./images.ts";
import { addIngressCommands } from "./ingress.ts";
import { addInspectCommands, addServerCommands } from "./inspect.ts";
import { addLifecycleCommands } from "./lifecycle.ts";
import { addLoginCommand } from "./login.ts";
import { addLogsCommand } from "./logs.ts";
import { writeAll } from "./output.ts";
import { addRunCommand } from "./run.ts";
import { addServeCommand } from "./serve.ts";
import { addSleepCommands } from "./sleep.ts";
import { addSnapshotCommands } from "./snapshots.ts";
import { addVolumeCommands } from "./volume.ts";

/** Runs one command line (without the program's name). Resolves to the status of the process. */
export async function cli(args: readonly string[]): Promise<number> {
  const program = makeProgram();
  try {
    await program.parseAsync(args, { from: "user" });
    return outcome.status;
  } catch (cause) {
    return failed(cause);
  }
}

function makeProgram(): Command {
  const program = new Command("dormouse")
    .description("Runs OCI images in virtual machines of their own.")
    .version(`dormouse ${VERSION} (${REVISION})`, "-V, --version")
    .option("--host <url>", `address of the API (DORMOUSE_HOST; default ${DEFAULT_HOST})`)
    .option("--json", "print JSON, for programs")
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ writeOut: (text) => writeAll(1, text), writeErr: (text) => writeAll(2, text), outputError: (text, write) => write(text.replace(/^error: /, "dormouse: ")) });
  program
    .hook("preSubcommand", (_, command) => void (outcome.command = command.name()))
    .hook("preAction", (_, command) => {
      outcome.json = wantsJson(command);
      outcome.help = helpOf(command);
    });
  program.commandsGroup("Instances:");
  for (const add of [addRunCommand, addInspectCommands, addLogsCommand, addExecCommand, addCopyCommand, addLifecycleCommands]) add(program);
  program.commandsGroup("Sleep, forks and snapshots:");
  for (const add of [addSleepCommands, addSnapshotCommands]) add(program);
  program.commandsGroup("Images:");
  for (const add of [addImageCommands, addLoginCommand]) add(program);
  program.commandsGroup("Volumes and ingress:");
  for (const add of [addVolumeCommands, addIngressCommands]) add(program);
  program.commandsGroup("Daemon and host:");
  for (const add of [addServeCommand, addDoctorCommand, addServerCommands]) add(program);
  program.helpCommand(true);
  tellOfHelp(program);
  return program;
}

/** What says that a command is used wrongly says where its use is told, too. */
function tellOfHelp(command: Command): void {
  command.showHelpAfterError(helpOf(command));
  command.commands.forEach(tellOfHelp);
}

/** Says why on stderr, once, and gives the status. Anything but our own errors is a bug, and shows where it is. */
function failed(cause: unknown): number {
  // The status of run and exec is the program's; what is ours must look like nothing that a program ends with.
  const runs = outcome.command === "run" || outcome.command === "exec";
  if (cause instanceof CommanderError) return cause.exitCode === 0 ? 0 : runs ? STATUS_DORMOUSE : STATUS_USAGE;
  if ((cause as NodeJS.ErrnoException).code === "EPIPE") return STATUS_BROKEN_PIPE;
  const status = runs ? STATUS_DORMOUSE : STATUS_FAILED;
  if (!(cause instanceof CliError)) {
    console.error("dormouse: a bug:", cause);
    return status;
  }
  const { code, message } = cause;
  const hint = cause.status === STATUS_USAGE && outcome.help !== "" ? `${outcome.help}\n` : "";
  writeAll(2, outcome.json ? `${JSON.stringify({ code, message })}\n` : `${message.replace(/^/gm, "dormouse: ")}\n${hint}`);
  return runs ? status : (cause.status ?? status);
}
