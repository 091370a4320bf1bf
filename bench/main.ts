// `bun run bench NAME [--json]`: runs bench/NAME.ts, in the testbed where it boots Linux and KVM here can't.
// With --json the last line is {"bench":NAME,"metrics":{METRIC:{"median":…,"unit":…,"goal":…,"met":…,"runs":N}}}.
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { probeKvm } from "../src/host/doctor/probe.ts";
import { say, type Bench, type Metrics } from "./metric.ts";

const repo = resolve(import.meta.dir, "..");

async function shell(...argv: string[]): Promise<number> {
  return await Bun.spawn(argv, { cwd: repo, stdin: "ignore", stdout: "inherit", stderr: "inherit" }).exited;
}

/** In the order of docs/performance.md; each is a module here that exports run(). */
const BENCHES = ["boot", "memory", "disk", "net", "virtqueue", "exits", "convert", "api", "wake", "wake-scale", "restore-native", "standby", "fork", "density"];

function print(metrics: Metrics): void {
  const rows = Object.entries(metrics).map(([name, { median, unit, goal, met }]) =>
    [name, String(median), unit, goal === null ? "" : `goal ${Number(goal.toFixed(3))}`, met === null ? "" : met ? "met" : "MISSED"]);
  const widths = [0, 1, 2, 3].map((i) => Math.max(...rows.map((row) => row[i]!.length)));
  for (const row of rows) console.log(row.map((cell, i) => (i === 1 ? cell.padStart(widths[i]!) : cell.padEnd(widths[i] ?? 0))).join("  ").trimEnd());
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { json: { type: "boolean" } } });
  const [name] = positionals;
  if (name === undefined || !BENCHES.includes(name)) {
    console.error(`usage: bun run bench NAME [--json]; NAME is one of ${BENCHES.join(", ")}`);
    return 2;
  }
  const bench: Bench = await import(`./${name}.ts`);
  if (bench.needsKvm && process.env["DORMOUSE_TESTBED"] !== "1") {
    await bench.prepare?.();
    if ((await shell("bun", "run", "build")) !== 0) return 1;
    const probe = probeKvm();
    if (!probe.able) {
      say(`${probe.found}: going on in the testbed`);
      return shell("scripts/testbed", "--", "bun", "bench/main.ts", name, ...(values.json ? ["--json"] : []));
    }
  }
  const metrics = await bench.run();
  if (values.json) console.log(JSON.stringify({ bench: name, metrics }));
  else print(metrics);
  return 0;
}

process.exit(await main());
