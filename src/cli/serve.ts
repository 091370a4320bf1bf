// serve: flags over DORMOUSE_* environment over defaults, and what the host must have before anything is made.
import { type Command, Option } from "commander";
import { LOG_LEVELS, type LogLevel, SERVE_DEFAULTS, type ServeOptions } from "../serve-options.ts";
import { collect, ipAddress, outcome, wholeNumber } from "./command.ts";
import { CliError } from "./fail.ts";

interface ServeFlags { listen: string; dataDir: string; range?: string; dns?: string[]; ingressAddress: string; vmmPool: number; teardown?: boolean; logLevel: LogLevel }

const MAX_POOL = 64;

export function addServeCommand(program: Command): void {
  program
    .command("serve")
    .description("Run the daemon: the API, and all virtual machines (as root)")
    .addOption(new Option("--listen <host:port>", "address of the API; loopback only").env("DORMOUSE_LISTEN").default(SERVE_DEFAULTS.listen))
    .addOption(new Option("--data-dir <path>", "folder of all state").env("DORMOUSE_DATA_DIR").default(SERVE_DEFAULTS.dataDir))
    .addOption(new Option("--range <cidr>", "addresses for guests, such as 10.88.0.0/16").env("DORMOUSE_RANGE"))
    .option("--dns <address>", "resolver for guests; repeats (DORMOUSE_DNS, commas between; default: the host's)", collect)
    .addOption(new Option("--ingress-address <address>", "address that the ports of ingresses listen on").env("DORMOUSE_INGRESS_ADDRESS").default(SERVE_DEFAULTS.ingressAddress).argParser(ipAddress))
    .addOption(new Option("--vmm-pool <count>", "monitors kept started for the next start or wake; 0 for none").env("DORMOUSE_VMM_POOL").argParser(wholeNumber(0, MAX_POOL)).default(SERVE_DEFAULTS.vmmPool))
    .addOption(new Option("--log-level <level>", "least important lines to log").env("DORMOUSE_LOG_LEVEL").choices(LOG_LEVELS).default(SERVE_DEFAULTS.logLevel))
    .option("--teardown", "remove all that Dormouse made of the host's network, and end")
    .action(async (flags: ServeFlags) => {
      outcome.status = await start(toOptions(flags));
    });
}

/** Commander has put flags over environment over defaults; only the list is read here. */
function toOptions(flags: ServeFlags): ServeOptions {
  const fromEnvironment = (process.env["DORMOUSE_DNS"] ?? "").split(",").map((one) => one.trim()).filter((one) => one !== "");
  return {
    listen: flags.listen,
    dataDir: flags.dataDir,
    range: flags.range || null,
    dns: flags.dns ?? fromEnvironment,
    ingressAddress: flags.ingressAddress,
    vmmPool: flags.vmmPool,
    teardown: flags.teardown === true,
    logLevel: flags.logLevel,
  };
}

/** Obstacles come first, so that a host that can't run guests is left as it was. */
async function start(options: ServeOptions): Promise<number> {
  const { checkRoot } = await import("../host/doctor/kernel.ts");
  const { firstObstacle } = await import("../host/doctor/doctor.ts");
  // What a host without KVM has left over can still be removed.
  const root = checkRoot();
  const obstacle = options.teardown ? (root.status === "fail" ? root : undefined) : firstObstacle();
  if (obstacle !== undefined) throw new CliError(`Cannot serve: ${obstacle.check}: ${obstacle.found}; ${obstacle.advice} (\`dormouse doctor\` shows more)`, obstacle.check);
  const { serve } = await import("../serve.ts");
  return serve(options);
}
