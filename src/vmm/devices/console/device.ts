// virtio-console with several ports (virtio 1.2, 5.3). Port 0 has queues 0 and 1, control 2 and 3, port n 2n+2 and 2n+3;
// of each pair the first is for the guest to receive.
import { VIRTIO_CONSOLE, virtio_console_config, virtio_console_control } from "../../../ffi/abi/virtio_console.ts";
import { VIRTIO_ID } from "../../../ffi/abi/virtio_ids.ts";
import { bits, type Device, type DeviceContext } from "../../virtio/device.ts";
import type { Queue } from "../../virtio/queue.ts";
import type { Port } from "./port.ts";

const { VIRTIO_CONSOLE_DEVICE_READY, VIRTIO_CONSOLE_PORT_ADD, VIRTIO_CONSOLE_PORT_READY, VIRTIO_CONSOLE_CONSOLE_PORT, VIRTIO_CONSOLE_PORT_OPEN, VIRTIO_CONSOLE_PORT_NAME } = VIRTIO_CONSOLE;
const CONTROL_RX = 2, CONTROL_TX = 3;
const QUEUE_SIZE = 128, CONTROL_QUEUE_SIZE = 32;
/** Chains of one queue in one go. */
const BUDGET = 256;
/** Control messages that wait for a buffer: a sound driver causes a handful a port. */
const MAX_CONTROL = 64;
const CONTROL = virtio_console_control.at;

interface ConsoleState { readonly open: readonly boolean[]; readonly control: readonly string[]; readonly ports: readonly unknown[] }

const rxQueue = (port: number): number => (port === 0 ? 0 : 2 * port + 2);

export class ConsoleDevice implements Device {
  readonly type = VIRTIO_ID.VIRTIO_ID_CONSOLE;
  readonly name = "console";
  readonly features = bits(VIRTIO_CONSOLE.VIRTIO_CONSOLE_F_MULTIPORT);
  readonly queueSizes: readonly number[];
  readonly config = new DataView(new ArrayBuffer(virtio_console_config.size));
  private context: DeviceContext | null = null;
  private readonly control: Uint8Array[] = [];
  /** What the guest has open, by port. */
  private readonly open: boolean[];

  constructor(private readonly ports: readonly Port[]) {
    this.queueSizes = Array.from({ length: 2 * ports.length + 2 }, (_, i) => (i === CONTROL_RX || i === CONTROL_TX ? CONTROL_QUEUE_SIZE : QUEUE_SIZE));
    this.config.setUint32(virtio_console_config.at.max_nr_ports, ports.length, true);
    this.open = ports.map(() => false);
    ports.forEach((port, i) => (port.wake = () => this.deliver(i)));
  }

  activate(context: DeviceContext): void { this.context = context; }

  onNotify(index: number): void {
    const context = this.context;
    if (context === null) return;
    const queue = context.queues[index]!;
    if (index === CONTROL_TX) this.takeControl(queue);
    else if (index === CONTROL_RX) this.sendControl();
    else {
      const port = index < CONTROL_RX ? 0 : (index - 2) >> 1;
      if ((index & 1) === 1) this.take(queue, this.ports[port]!);
      else this.deliver(port);
    }
  }

  /** The guest's last words: a kernel resets its devices before the machine, and the notification may still be on its way here. */
  beforeReset(): void {
    for (let index = 1; index < this.queueSizes.length; index += 2) this.onNotify(index);
  }

  reset(): boolean {
    this.context = null;
    this.control.length = 0;
    this.ports.forEach((_, i) => this.setOpen(i, false));
    return true;
  }

  save(): unknown {
    const control = this.control.map((message) => Buffer.from(message).toString("base64"));
    return { open: [...this.open], control, ports: this.ports.map((port) => port.save?.() ?? null) } satisfies ConsoleState;
  }

  restore(state: unknown): void {
    const { open, control, ports } = state as ConsoleState;
    open.forEach((isOpen, i) => this.setOpen(i, isOpen));
    this.control.push(...control.map((message) => Buffer.from(message, "base64")));
    ports.forEach((saved, i) => this.ports[i]?.restore?.(saved));
  }

  private setOpen(port: number, open: boolean): void {
    if (this.open[port] === open) return;
    this.open[port] = open;
    this.ports[port]!.opened(open);
  }

  /** The guest's output. */
  private take(queue: Queue, port: Port): void {
    let budget = BUDGET;
    do {
      while (budget > 0 && queue.pop()) {
        port.output(queue);
        queue.push(queue.head, 0);
        budget--;
      }
      queue.flush();
      if (budget === 0) return this.context?.again(queue.index);
    } while (queue.enableNotify());
  }

  /** Input for the guest, as far as it has given room. */
  private deliver(index: number): void {
    const queue = this.context?.queues[rxQueue(index)], port = this.ports[index]!;
    if (queue === undefined) return;
    while (port.waiting) {
      if (!queue.pop()) {
        if (queue.enableNotify()) continue;
        break;
      }
      if (queue.writeCount === 0) return void queue.fail("an input buffer has no room"); // given back, as many could come as one takes
      queue.push(queue.head, port.input(queue));
    }
    queue.flush();
  }

  private takeControl(queue: Queue): void {
    const message = new Uint8Array(virtio_console_control.size), view = new DataView(message.buffer);
    let budget = BUDGET;
    do {
      while (budget > 0 && queue.pop()) {
        const length = queue.payload.gather(queue.firstRead, queue.readCount, message);
        queue.push(queue.head, 0);
        budget--;
        if (length === message.length) this.handle(view.getUint32(CONTROL.id, true), view.getUint16(CONTROL.event, true), view.getUint16(CONTROL.value, true));
      }
      queue.flush();
      if (budget === 0) return this.context?.again(queue.index);
    } while (queue.enableNotify());
  }

  private handle(id: number, event: number, value: number): void {
    if (event === VIRTIO_CONSOLE_DEVICE_READY) {
      if (value === 1) this.ports.forEach((_, i) => this.queueControl(i, VIRTIO_CONSOLE_PORT_ADD, 1));
    } else if (id >= this.ports.length) return;
    else if (event === VIRTIO_CONSOLE_PORT_READY && value === 1) this.introduce(id);
    else if (event === VIRTIO_CONSOLE_PORT_OPEN) this.setOpen(id, value === 1);
  }

  private introduce(id: number): void {
    const port = this.ports[id]!;
    if (port.console) this.queueControl(id, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
    this.queueControl(id, VIRTIO_CONSOLE_PORT_NAME, 1, Buffer.from(port.name));
    this.queueControl(id, VIRTIO_CONSOLE_PORT_OPEN, 1);
  }

  private queueControl(id: number, event: number, value: number, text: Uint8Array = new Uint8Array(0)): void {
    if (this.control.length >= MAX_CONTROL) return;
    const message = new Uint8Array(virtio_console_control.size + text.length), view = new DataView(message.buffer);
    view.setUint32(CONTROL.id, id, true);
    view.setUint16(CONTROL.event, event, true);
    view.setUint16(CONTROL.value, value, true);
    message.set(text, virtio_console_control.size);
    this.control.push(message);
    this.sendControl();
  }

  private sendControl(): void {
    const queue = this.context?.queues[CONTROL_RX];
    if (queue === undefined) return;
    while (this.control.length > 0) {
      if (queue.pop()) queue.push(queue.head, queue.payload.scatter(queue.firstWrite, queue.writeCount, this.control.shift()!));
      else if (!queue.enableNotify()) break;
    }
    queue.flush();
  }
}
