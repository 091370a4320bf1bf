// Whether a wake gets slower with the guest's memory: first byte of a sleeping nginx with 128 MiB, 1 GiB and 4 GiB, half of it filled with data.
import { figure, judged, median, say, type Metrics } from "./metric.ts";
import { firstByte, prepareSleepers, Sleepers } from "./sleepers.ts";

export const needsKvm = true;
export const prepare = prepareSleepers;

const SIZES_MIB = [128, 1024, 4096] as const;
const ROUNDS = 5;
const GOAL = 1.2;
const PART_MIB = 16;

export async function run(): Promise<Metrics> {
  const times: number[][] = [], bytes: number[] = [];
  await using host = await Sleepers.start();
  for (const mib of SIZES_MIB) {
    const web = await host.create(`web-${mib}`, `${mib}MB`);
    // A tmpfs holds half of memory at most; what nginx and the kernel need comes on top.
    await host.exec(web, "sh", "-c", `mkdir -p /fill && mount -t tmpfs -o size=60% fill /fill && ${fillWith(mib / 2)}`);
    const rounds: number[] = [];
    for (let i = 0; i <= ROUNDS; i++) {
      const slept = await host.standby(web);
      if (i === 0) bytes.push(slept.bytes);
      await host.poolReady();
      const ms = await firstByte(web.ip);
      say(`${mib} MiB: ${ms.toFixed(0)} ms${i === 0 ? ` (warming up; ${(slept.bytes / 2 ** 20).toFixed(0)} MiB written)` : ""}`);
      if (i > 0) rounds.push(ms);
      await host.steps(web);
    }
    times.push(rounds);
    await host.remove(web);
  }
  const scale = judged([median(times.at(-1)!) / median(times[0]!)], "largest/smallest", "at most", GOAL);
  return {
    scale: { ...scale, runs: ROUNDS },
    ...Object.fromEntries(SIZES_MIB.map((mib, i) => [`first_byte_${mib}_mib`, figure(times[i]!, "ms")])),
    ...Object.fromEntries(SIZES_MIB.map((mib, i) => [`written_${mib}_mib`, figure([bytes[i]! / 2 ** 20], "MiB", 0)])),
  };
}

/** What fills a folder with data of no use to anybody: one part is made byte by byte, the others are copies of it. */
function fillWith(mib: number): string {
  const copies = Array<string>(mib / PART_MIB - 1).fill("/fill/part");
  return `head -c ${PART_MIB * 2 ** 20} /dev/zero | tr '\\0' x > /fill/part && cat ${copies.join(" ")} > /fill/copies`;
}
