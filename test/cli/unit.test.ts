// The systemd unit: systemd itself finds nothing wrong in it, and it asks for what its comments promise.
import { expect, test } from "bun:test";
import { join } from "node:path";
import { repo, TempDir } from "../support/paths.ts";

const unit = await Bun.file(join(repo, "systemd/dormouse.service")).text();

test("a stop or restart ends the daemon only", () => {
  expect(unit).toMatch(/^KillMode=process$/m);
  expect(unit).toMatch(/^Restart=on-failure$/m);
  expect(unit).toMatch(/^ExecStart=\S+\/dormouse serve$/m);
});

test("it asks for nothing that a daemon with a JIT, KVM and the host's network can't live with", () => {
  for (const one of ["MemoryDenyWriteExecute", "PrivateDevices", "ProtectKernelTunables", "PrivateNetwork", "ProtectControlGroups", "PrivateUsers"]) expect(unit).not.toMatch(new RegExp(`^${one}=`, "m"));
});

test.skipIf(Bun.which("systemd-analyze") === null)("systemd-analyze verifies it", async () => {
  using folder = new TempDir("unit");
  const path = folder.join("dormouse.service");
  await Bun.write(path, unit.replace(/^ExecStart=\S+/m, "ExecStart=/bin/true"));
  const child = Bun.spawn(["systemd-analyze", "verify", path], { stdout: "pipe", stderr: "pipe" });
  const [err, status] = await Promise.all([child.stderr.text(), child.exited]);
  expect([status, err.trim()]).toEqual([0, ""]);
});
