// The machine's I/O ports that are not KVM's own: serial port, PCI configuration (type 1), and the keyboard controller's reset line.
// Ports that nobody has read as all ones, and writes to them are lost.
import type { PciBus } from "./bus.ts";
import type { PostedWrites } from "./posted.ts";
import { SERIAL_PORT, SERIAL_PORTS, type Serial } from "./serial.ts";

const KEYBOARD_STATUS = 0x64, KEYBOARD_RESET = 0xfe;
export const PCI_CONFIG_ADDRESS = 0xcf8, PCI_CONFIG_ADDRESS_SIZE = 4;
const PCI_CONFIG_DATA = 0xcfc;
const ALL_ONES = 0xffffffff;

export class Ports {
  /** `posted`: writes to PCI_CONFIG_ADDRESS that may have come before an access. `reset`: the guest wants to begin anew. */
  constructor(private readonly bus: PciBus, private readonly serial: Serial, private readonly posted: PostedWrites, private readonly reset: () => void) {}

  /** Takes what the guest has written and nobody has needed yet. */
  settle(): void { this.posted.take(this.writeAddress); }
  private readonly writeAddress = (port: number, size: number, value: number): void => {
    if (port === PCI_CONFIG_ADDRESS && size === PCI_CONFIG_ADDRESS_SIZE) this.bus.address = value;
  };

  /** 1, 2 or 4 bytes; only the low `size` bytes of the answer count. */
  read(port: number, size: number): number {
    if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size === 1) return this.serial.read(port - SERIAL_PORT);
    if (isConfigData(port, size)) {
      this.settle();
      return this.bus.configRead(port - PCI_CONFIG_DATA, size);
    }
    if (port === PCI_CONFIG_ADDRESS && size === PCI_CONFIG_ADDRESS_SIZE) {
      this.settle();
      return this.bus.address;
    }
    if (port === KEYBOARD_STATUS) return 0; // input buffer empty: the reset command may be written
    return ALL_ONES;
  }

  write(port: number, size: number, value: number): void {
    if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size === 1) this.serial.write(port - SERIAL_PORT, value);
    else if (isConfigData(port, size)) {
      this.settle();
      this.bus.configWrite(port - PCI_CONFIG_DATA, size, value);
    } else if (port === PCI_CONFIG_ADDRESS) {
      this.settle();
      this.writeAddress(port, size, value);
    } else if (port === KEYBOARD_STATUS && value === KEYBOARD_RESET) this.reset();
  }
}

const isConfigData = (port: number, size: number): boolean => port >= PCI_CONFIG_DATA && port + size <= PCI_CONFIG_DATA + 4;
