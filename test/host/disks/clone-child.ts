// Clones an instance's disk, or (target kind `none`) removes a snapshot that keeps layers apart, and is killed after the step that
// it is told: `clone-child.ts <data folder> <step> <target kind>`.
import { openDisks } from "./disk-files.ts";

const [dataDir, step, kind] = process.argv.slice(2) as [string, string, "instance" | "snapshot" | "none"];
const { disks } = await openDisks(dataDir, (done) => {
  if (done === step) process.kill(process.pid, "SIGKILL");
});
if (kind === "none") {
  disks.remove({ kind: "snapshot", id: "s" })._unsafeUnwrap();
  await disks.idle();
  process.exit(1);
}
const clone = (await disks.clone({ kind: "instance", id: "a" }, { kind, id: "b" }))._unsafeUnwrap();
clone.finish()._unsafeUnwrap();
console.log("finished"); // never, unless there is no such step
