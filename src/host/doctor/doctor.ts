// `dormouse doctor`: whether this host can run guests, a row a requirement, with what to do where it fails.
// Every check only looks; none leaves anything behind.
import { checkKvm } from "./kvm.ts";
import { checkCgroup, checkKernel, checkMemory, checkRoot } from "./kernel.ts";
import { checkForwarding, checkTun } from "./network.ts";
import type { Row } from "./row.ts";
import { checkDisk, checkE2fsprogs, checkIoUring, checkReflink } from "./storage.ts";

/** All rows, most basic first. `dataDir` need not exist yet. */
export function examine(dataDir: string): Row[] {
  const root = checkRoot();
  return [
    root,
    checkKernel(),
    ...checkKvm(),
    checkTun(),
    checkCgroup(),
    checkMemory(),
    checkDisk(dataDir),
    checkE2fsprogs(),
    checkIoUring(),
    checkReflink(dataDir),
    ...checkForwarding(root.status === "ok"),
  ];
}

/** What `dormouse serve` must have before it makes anything: the first that is missing. */
export const firstObstacle = (): Row | undefined => [checkRoot(), checkKernel(), ...checkKvm(), checkTun(), checkE2fsprogs()].find(({ status }) => status === "fail");
