// The executable's entry. It only picks what to load: a monitor must carry neither command line nor HTTP server,
// so that each costs a few megabytes of private memory.

// Bun reads these in a compiled executable too; what we start must run as us, not as a Bun with somebody's options.
delete process.env["BUN_OPTIONS"];
delete process.env["BUN_BE_BUN"];

const args = process.argv.slice(2);
if (args[0] === "vmm") {
  const { vmm } = await import("./vmm/main.ts");
  vmm(args.slice(1));
} else {
  const { cli } = await import("./cli/main.ts");
  process.exit(await cli(args));
}
export {};
