// Writes blocks through a layered device until it is killed, and tells of each write once the device has acknowledged it:
// `<block> <value>`. The values of a block only grow.
import { writeSync } from "node:fs";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import { Disk, OUT, ways } from "./block-driver.ts";
import { openLayers, type LayerPaths } from "./layer-files.ts";

const epoll = new Epoll();
const { layers } = openLayers(JSON.parse(process.argv[3]!) as LayerPaths[]);
const d = new Disk("", new BlockDevice({ name: "disk0", readonly: false, serial: "", backing: layers }, ways[process.argv[2]!]!(epoll)), epoll).start() as Disk;
const blocks = layers.bytes / 4096, BATCH = 8;
const data = Array.from({ length: BATCH }, () => d.alloc(4096));
const header = d.alloc(16 * BATCH), status = d.alloc(BATCH);

for (let n = 0; ; n += BATCH) {
  const value = 1 + Math.floor(n / blocks);
  if (value > 255) break;
  for (let i = 0; i < BATCH; i++) {
    d.bytes.fill(value, data[i]!, data[i]! + 4096);
    d.view.setUint32(header + 16 * i, OUT, true);
    d.view.setBigUint64(header + 16 * i + 8, BigInt((((n + i) * 37) % blocks) * 8), true);
    d.queues[0]!.add([{ gpa: header + 16 * i, length: 16 }, { gpa: data[i]!, length: 4096 }, { gpa: status + i, length: 1, write: true }]);
  }
  d.queues[0]!.kick();
  let done = 0;
  d.run(() => (done += d.queues[0]!.takeUsed().length) === BATCH);
  let text = "";
  for (let i = 0; i < BATCH; i++) text += `${((n + i) * 37) % blocks} ${value}\n`;
  writeSync(1, text);
}
