// iperf3 both ways and round trips between guest and host over a TAP, without vhost: ours against QEMU's virtio-net.
import { command } from "../test/support/command.ts";
import { TempDir } from "../test/support/paths.ts";
import { benchInitrd, benchRootfs, guestKernel } from "./files.ts";
import { Guest, type GuestSpec, type Monitor } from "./guest.ts";
import { figure, judged, median, type Metrics } from "./metric.ts";
import { inTurns, type Rounds } from "./rounds.ts";

export const needsKvm = true;
export const prepare = async (): Promise<void> => {
  await guestKernel();
  await benchRootfs();
};

const ROUNDS = 3, SECONDS = 4, PINGS = 500;
const GOAL = 1;
const TAP = "dmbench0", HOST = "198.18.255.1", GUEST = "198.18.255.2"; // RFC 2544: for benchmarks
const MAC = "02:00:5e:10:00:02";

/** `better`: what a better monitor has. */
const FIGURES = {
  send: { pattern: /^bench: send .*\s([\d.]+) Kbits\/sec/m, unit: "Mbit/s", scale: 1000, better: "more" },
  receive: { pattern: /^bench: receive .*\s([\d.]+) Kbits\/sec/m, unit: "Mbit/s", scale: 1000, better: "more" },
  round_trip: { pattern: /^bench: ping round-trip min\/avg\/max = [\d.]+\/([\d.]+)\//m, unit: "µs", scale: 0.001, better: "less" },
} as const;
type Name = keyof typeof FIGURES;
const names = Object.keys(FIGURES) as Name[];

async function measure(monitor: Monitor, spec: GuestSpec, folder: string): Promise<Record<Name, number>> {
  const server = Bun.spawn(["iperf3", "-s", "-B", HOST], { stdin: "ignore", stdout: "ignore", stderr: "inherit" });
  const guest = Guest.start(monitor, spec, folder);
  try {
    const [text] = await guest.serial(/[^]*bench: done/);
    const values = {} as Record<Name, number>;
    for (const name of names) {
      values[name] = Number(FIGURES[name].pattern.exec(text)?.[1]) / FIGURES[name].scale;
      if (!(values[name] > 0)) throw new Error(`there is no figure for ${name}; the guest said:\n${text.slice(-2000)}`);
    }
    return values;
  } finally {
    await guest.stop();
    server.kill();
    await server.exited;
  }
}

export async function run(): Promise<Metrics> {
  using dir = new TempDir("bench");
  const spec: GuestSpec = {
    kernel: await guestKernel(), initrd: benchInitrd(dir.path), memoryMib: 512, vcpus: 1,
    job: { job: "net", ip: GUEST, peer: HOST, pings: String(PINGS), seconds: String(SECONDS) },
    disks: [{ path: await benchRootfs(), readonly: true }], tap: { name: TAP, mac: MAC },
  };
  let samples: Rounds<Name>;
  await command(["ip", "tuntap", "add", "dev", TAP, "mode", "tap"]);
  try {
    await command(["ip", "addr", "add", `${HOST}/30`, "dev", TAP]);
    await command(["ip", "link", "set", TAP, "up"]);
    samples = await inTurns(dir.path, ROUNDS, FIGURES, (monitor, folder) => measure(monitor, spec, folder));
  } finally {
    await command(["ip", "link", "del", TAP]);
  }
  return Object.fromEntries(names.flatMap((name) => {
    const ours = median(samples("ours", name)), theirs = median(samples("QEMU", name));
    const [value, unit] = FIGURES[name].better === "more" ? [ours / theirs, "ours/QEMU"] : [theirs / ours, "QEMU/ours"];
    return [
      [name, { ...judged([value], unit, "at least", GOAL), runs: ROUNDS }],
      [`${name}_ours`, figure(samples("ours", name), FIGURES[name].unit, 0)],
      [`${name}_qemu`, figure(samples("QEMU", name), FIGURES[name].unit, 0)],
    ];
  }));
}
