// doctor: the host's table.
import type { Command } from "commander";
import { SERVE_DEFAULTS } from "../serve-options.ts";
import { outcome, show } from "./command.ts";
import { STATUS_FAILED } from "./fail.ts";
import { table } from "./output.ts";

export function addDoctorCommand(program: Command): void {
  program
    .command("doctor")
    .description("Check whether this host can run virtual machines, and say what to do where it can't")
    .option("--data-dir <path>", `folder of the daemon's state (DORMOUSE_DATA_DIR; default ${SERVE_DEFAULTS.dataDir})`)
    .option("--json", "print JSON, for programs")
    .action(async ({ dataDir }: { dataDir?: string }, command: Command) => {
      const { examine } = await import("../host/doctor/doctor.ts");
      const rows = examine(dataDir ?? (process.env["DORMOUSE_DATA_DIR"] || SERVE_DEFAULTS.dataDir));
      show(command, rows, () => {
        const lines = table(["", "CHECK", "FOUND"], rows.map(({ status, check, found }) => [status, check, found]));
        const todo = rows.filter(({ status }) => status !== "ok").map(({ check, advice }) => `${check}: ${advice}`);
        return todo.length === 0 ? lines : `${lines}\n\nWhat to do:\n${todo.map((line) => `  ${line}`).join("\n")}`;
      });
      if (rows.some(({ status }) => status === "fail")) outcome.status = STATUS_FAILED;
    });
}
