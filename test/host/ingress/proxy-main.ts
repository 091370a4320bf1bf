// A proxy alone in a process, for tests of what it takes: prints its port, and then its largest resident size (kB) at each line
// of input. Argument: the port of its target.
import { readFileSync } from "node:fs";
import { World } from "./world.ts";

const world = new World();
world.add("web");
console.log(world.route("a.test", "web", Number(process.argv[2])));
for await (const _ of console) console.log(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
