// Runs the tests and ends with the line `N passed, N failed`; started by scripts/test.
//   test.ts [PATTERN…]              those whose path has one of the patterns in it; all without a pattern
//   test.ts --guest-only --report DIR [PATTERN…]   those that need KVM, here; DIR/report.json has the counts so far and the files under way,
//                                                  DIR/lane-N/output what those have said
// DORMOUSE_LONG=1: tests that go round and round do so for hours.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { probeKvm } from "../../src/host/doctor/probe.ts";
import { indented, repo, runFiles, TESTBED_LIMIT_MS, total, type Counts, type Progress } from "./test-files.ts";

const { values: options, positionals: patterns } = parseArgs({
  allowPositionals: true, options: { "guest-only": { type: "boolean" }, report: { type: "string" } },
});

const testFiles = (folder: string): string[] =>
  readdirSync(join(repo, folder), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".test.ts")).map((name) => join(folder, name)).sort();
const wanted = (file: string): boolean => patterns.length === 0 || patterns.some((pattern) => file.includes(pattern));
const isGuest = (file: string): boolean => file.startsWith("test/guest/");

async function withFolder<T>(name: string, use: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), name));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function outer(argv: readonly string[]): Promise<number> {
  return await Bun.spawn([...argv], { cwd: repo, stdin: "ignore", stdout: "inherit", stderr: "inherit" }).exited;
}

/** What guest tests use, made where there is a network and room: the executable and the images. */
async function prepareGuestTests(): Promise<boolean> {
  return (await outer(["bun", "run", "build"])) === 0 && (await outer(["bun", "scripts/lib/images.ts"])) === 0;
}

async function runGuestTests(files: readonly string[]): Promise<Counts> {
  if (files.length === 0) return { passed: 0, failed: 0 };
  if (!(await prepareGuestTests())) {
    console.log(`FAIL test/guest: what its ${files.length} files need cannot be built`);
    return { passed: 0, failed: files.length };
  }
  const probe = probeKvm();
  if (probe.able) return withFolder("dormouse-tests-", (folder) => runFiles(files, "guest", folder));
  console.log(`no usable KVM here (${probe.found}): ${files.length} files run in the testbed`);
  return withFolder("dormouse-report-", (folder) => runInTestbed(files, folder));
}

/** A testbed that dies or hangs has told its console's last lines by itself; here, which files it was with and what those had said. */
async function runInTestbed(files: readonly string[], out: string): Promise<Counts> {
  const limit = String(TESTBED_LIMIT_MS / 1000);
  const status = await outer(["scripts/testbed", "--out", out, "--timeout", limit, "--", "bun", "scripts/lib/test.ts", "--guest-only", "--report", out, ...patterns]);
  const path = join(out, "report.json");
  if (!existsSync(path)) {
    console.log(`FAIL test/guest: the testbed ended with status ${status} before the first file`);
    return { passed: 0, failed: files.length };
  }
  const { passed, failed, done, running } = JSON.parse(readFileSync(path, "utf8")) as Progress;
  for (const { file, output } of running) {
    console.log(`FAIL ${file}: the testbed ended with status ${status} in the middle of it`);
    if (existsSync(output)) console.log(indented(readFileSync(output, "utf8")));
  }
  const unheard = files.length - done - running.length;
  if (unheard > 0) console.log(`FAIL test/guest: ${unheard} files did not run`);
  return { passed, failed: failed + running.length + unheard };
}

const files = testFiles("test").filter(wanted);
const guestFiles = files.filter(isGuest);

async function run(): Promise<Counts> {
  const { report } = options;
  if (options["guest-only"] && report !== undefined) return runFiles(guestFiles, "guest", report, (progress) => writeFileSync(join(report, "report.json"), JSON.stringify(progress)));
  const unit = await withFolder("dormouse-tests-", (folder) => runFiles(files.filter((file) => !isGuest(file)), "unit", folder));
  return total([unit, await runGuestTests(guestFiles)]);
}

const { passed, failed } = await run();
if (options.report === undefined) console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
