// The machine's I/O ports that are not KVM's own: serial port, PCI configuration (type 1), and the keyboard controller's reset line.
// Ports that nobody has read as all ones, and writes to them are lost.
import type { PciBus } from "./bus.ts";
import { SERIAL_PORT, SERIAL_PORTS, type Serial } from "./serial.ts";

const KEYBOARD_STATUS = 0x64, KEYBOARD_RESET = 0xfe;
const PCI_CONFIG_ADDRESS = 0xcf8, PCI_CONFIG_DATA = 0xcfc;
const ALL_ONES = 0xffffffff;

export class Ports {
  /** `reset`: the guest wants to begin anew. */
  constructor(private readonly bus: PciBus, private readonly serial: Serial, private readonly reset: () => void) {}

  /** 1, 2 or 4 bytes; only the low `size` bytes of the answer count. */
  read(port: number, size: number): number {
    if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size === 1) return this.serial.read(port - SERIAL_PORT);
    if (isConfigData(port, size)) return this.bus.configRead(port - PCI_CONFIG_DATA, size);
    if (port === PCI_CONFIG_ADDRESS && size === 4) return this.bus.address;
    if (port === KEYBOARD_STATUS) return 0; // input buffer empty: the reset command may be written
    return ALL_ONES;
  }

  write(port: number, size: number, value: number): void {
    if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size === 1) this.serial.write(port - SERIAL_PORT, value);
    else if (isConfigData(port, size)) this.bus.configWrite(port - PCI_CONFIG_DATA, size, value);
    else if (port === PCI_CONFIG_ADDRESS && size === 4) this.bus.address = value;
    else if (port === KEYBOARD_STATUS && value === KEYBOARD_RESET) this.reset();
  }
}

const isConfigData = (port: number, size: number): boolean => port >= PCI_CONFIG_DATA && port + size <= PCI_CONFIG_DATA + 4;
