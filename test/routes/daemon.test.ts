import { expect, test } from "bun:test";
import { join } from "node:path";

test("the whole daemon: one a data folder, pulls, records, stops, and finds all again", async () => {
  const child = Bun.spawn(["unshare", "--net", process.execPath, join(import.meta.dir, "daemon-driver.ts")], { stdout: "pipe", stderr: "pipe" });
  const [output, errors, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ status, errors: status === 0 ? "" : errors }).toEqual({ status: 0, errors: "" });
  expect(JSON.parse(output)).toEqual({
    "second daemon": "conflict",
    "unknown image": "image_not_found",
    image: { name: true, entrypoint: ["/bin/busybox"], digest: true },
    "more than the host has": "insufficient_resources",
    created: { state: "Created", image: true },
    taken: "already_exists",
    "image in use": "in_use",
    stopped: "Stopped",
    snapshot: { kind: "Stopped", name: "cold", source: true, taken: "name_conflict" },
    "wrong state": ["invalid_state", "invalid_state", "invalid_state", "invalid_state"],
    forks: [{ name: "fork", state: "Stopped", idle: "1h30m", tags: { team: "a" } }, { name: "child", state: "Stopped", idle: "1h30m", tags: { team: "a" } }],
    "fork again": ["already_exists", true],
    "in place": "Stopped",
    "site while no daemon runs": "nobody listens",
    "auto-standby": { status: "ineligible", reason: "instance_not_running", idle_timeout: "1h30m", held: "ineligible" },
    "no schedule": "not_found",
    "after stop": "nobody listens",
    sites: [503, 404, 404],
    "site deleted": "nobody listens",
    "found again": { id: true, state: "Stopped", tags: { team: "a" }, images: 1 },
    schedule: true,
    policies: {
      auto_standby: { enabled: true, idle_timeout: "1h30m", ignore_destination_ports: [22], ignore_source_cidrs: [], wake_on_packet: true },
      snapshot_policy: { compression: { enabled: true, algorithm: "zstd", level: 1 } },
    },
    "snapshot outlives": [["cold"], "in_use"],
    left: { snapshots: [], instances: [], images: [] },
    log: true,
  });
}, 120_000);
