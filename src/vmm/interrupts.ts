// GSIs, their irqfds and the routing table. GSIs 0 to 23 are the ISA lines and IOAPIC pins as KVM's default has them; MSIs follow.
import { EventFd } from "../ffi/epoll.ts";
import { KVM } from "../ffi/abi/kvm.ts";
import type { Route, Vm } from "./kvm.ts";

const IOAPIC_PINS = 24, PIC_PINS = 8;

/** What a message-signalled interrupt writes, and where. */
export interface MsiMessage { readonly addressLow: number; readonly addressHigh: number; readonly data: number }

export class Interrupts {
  private readonly messages = new Map<number, MsiMessage>();
  private readonly events: EventFd[] = [];
  private nextGsi = IOAPIC_PINS;
  private dirty = false;

  constructor(private readonly vm: Vm) {}

  /** A new GSI without a route, and the eventfd that raises it. Lives as long as the machine. */
  allocate(): { readonly gsi: number; readonly fd: number } {
    const gsi = this.nextGsi++;
    return { gsi, fd: this.bind(gsi) };
  }

  /** The eventfd that pulses an ISA line. */
  isa(irq: number): number { return this.bind(irq); }

  setMessage(gsi: number, message: MsiMessage | null): void {
    if (message === null) this.dirty = this.messages.delete(gsi) || this.dirty;
    else {
      this.messages.set(gsi, message);
      this.dirty = true;
    }
  }

  /** One ioctl for all changes since the last. */
  commit(): void {
    if (!this.dirty) return;
    this.dirty = false;
    const routes: Route[] = [];
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      routes.push({ gsi: pin, chip: KVM.KVM_IRQCHIP_IOAPIC, pin });
      if (pin < 2 * PIC_PINS) routes.push({ gsi: pin, chip: pin < PIC_PINS ? KVM.KVM_IRQCHIP_PIC_MASTER : KVM.KVM_IRQCHIP_PIC_SLAVE, pin: pin % PIC_PINS });
    }
    for (const [gsi, message] of this.messages) routes.push({ gsi, ...message });
    this.vm.setRoutes(routes);
  }

  private bind(gsi: number): number {
    const event = new EventFd();
    this.events.push(event);
    this.vm.irqfd(event.fd, gsi);
    return event.fd;
  }
}
