// A real guest saved by one monitor and woken in another, twice over: what the agent has to do with it. Monitors are driven
// directly; what the daemon makes of it is tested beside this.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { makeDisk, makeRootfs, removeFolder, tempFolder } from "../guest-agent/machine.ts";
import { Vm, type VmOptions } from "../guest-agent/vm.ts";
import { until } from "../support/until.ts";

const folder = tempFolder();
const LIMIT = 300_000;
const vms: Vm[] = [];
let options: Omit<VmOptions, "config">;
beforeAll(async () => {
  options = { folder, image: await makeRootfs(folder, {}, {}), disk: await makeDisk(folder), vcpus: 2 };
}, 300_000);
afterAll(async () => {
  await Promise.all(vms.map((vm) => vm.close()));
  removeFolder(folder);
});

const own = () => ({ ...options, folder: mkdtempSync(join(folder, "vm-")) });
/** A connection that is made before the guest has heard that the old ones are gone dies with them: the next one does not. */
const shell = (vm: Vm, script: string) => until(script, async () => {
  const session = await vm.sh(script);
  await session.until(() => session.end ?? session.error ?? session.closed);
  return session.end === null ? null : session.stdout.trim();
});

async function woken(generations: Record<string, string>, hostname: string): Promise<Vm> {
  const { vm, result } = await Vm.restore(own(), generations, hostname);
  vms.push(vm);
  expect(result.status.state).toBe("paused");
  expect((await vm.release()).state).toBe("running");
  return vm;
}

test("a guest wakes as who it is told to be, at the right time, and its workload goes on; the second sleep writes little", async () => {
  const first = await Vm.boot({ ...own(), config: [["arg", "sh"], ["arg", "-c"], ["arg", "while :; do i=$((i+1)); echo $i > /count; sleep 0.02; done"], ["disk.upper", "vdb"], ["hostname", "asleep"]] });
  vms.push(first);
  await first.state("running");
  await shell(first, "echo kept > /kept; head -c 8000000 /dev/urandom > /data; until [ -s /count ]; do sleep 0.1; done");
  const saved = await first.save(join(folder, "g1"), "g1", null);
  await first.close();

  const second = await woken({ g1: join(folder, "g1") }, "awake");
  const seen = Number(await shell(second, "cat /count"));
  await until("the workload to go on", async () => Number(await shell(second, "cat /count")) > seen);
  expect(await shell(second, "cat /kept; hostname; cat /etc/hostname; tail -n 1 /etc/hosts")).toBe("kept\nawake\nawake\n127.0.1.1\tawake");
  expect(Math.abs(Number(await shell(second, "date +%s")) - Date.now() / 1000)).toBeLessThan(10);

  const delta = await second.save(join(folder, "g2"), "g2", "g1");
  expect(delta.dataBytes).toBeLessThan(saved.dataBytes / 2);
  await second.close();
  const third = await woken({ g2: join(folder, "g2"), g1: join(folder, "g1") }, "again");
  expect(await shell(third, "cat /kept; hostname")).toBe("kept\nagain");
}, LIMIT);
