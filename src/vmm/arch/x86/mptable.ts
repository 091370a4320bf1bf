// The MP table (Intel MultiProcessor Specification 1.4, chapter 4) by which a kernel without ACPI finds CPUs and interrupts.
import { IOAPIC_ADDRESS, LAPIC_ADDRESS, MP_TABLE_ADDRESS } from "../../layout.ts";

const SPEC_REVISION_1_4 = 4;
const APIC_VERSION = 0x14;
const PROCESSOR = 0, BUS = 1, IOAPIC = 2, IO_INTERRUPT = 3, LOCAL_INTERRUPT = 4;
const CPU_ENABLED = 1, CPU_BOOTSTRAP = 2;
const INT_VECTORED = 0, INT_NMI = 1, INT_EXTERNAL = 3;
const ISA_IRQS = 16;
const POINTER_SIZE = 16, HEADER_SIZE = 44;

/** Bytes to stand at MP_TABLE_ADDRESS: the floating pointer, then the configuration table. At most 1 KiB for 16 CPUs. */
export function mpTable(cpus: number): Uint8Array {
  const entries: number[][] = [];
  for (let id = 0; id < cpus; id++) {
    const flags = CPU_ENABLED | (id === 0 ? CPU_BOOTSTRAP : 0);
    // type, APIC id, version, flags, signature (family 6), features (FPU, APIC), reserved
    entries.push([PROCESSOR, id, APIC_VERSION, flags, 0x00, 0x06, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  }
  entries.push([BUS, 0, ...Buffer.from("PCI   ")], [BUS, 1, ...Buffer.from("ISA   ")]);
  const ioapicId = cpus; // ids of CPUs and IOAPICs share one space
  entries.push([IOAPIC, ioapicId, APIC_VERSION, 1, ...le32(IOAPIC_ADDRESS)]);
  // type, interrupt type, flags (2), source bus, source irq, destination APIC, destination pin
  for (let irq = 0; irq < ISA_IRQS; irq++) entries.push([IO_INTERRUPT, INT_VECTORED, 0, 0, 1, irq, ioapicId, irq]);
  entries.push([LOCAL_INTERRUPT, INT_EXTERNAL, 0, 0, 1, 0, 0, 0], [LOCAL_INTERRUPT, INT_NMI, 0, 0, 1, 0, 0xff, 1]);

  const body = Uint8Array.from(entries.flat());
  const header = new Uint8Array(HEADER_SIZE);
  const view = new DataView(header.buffer);
  header.set(Buffer.from("PCMP"), 0);
  view.setUint16(4, HEADER_SIZE + body.length, true);
  header[6] = SPEC_REVISION_1_4;
  header.set(Buffer.from("DORMOUSE"), 8);
  header.set(Buffer.from("MICROVM     "), 16);
  view.setUint16(34, entries.length, true);
  view.setUint32(36, LAPIC_ADDRESS, true);
  header[7] = checksum(header, body);

  const pointer = new Uint8Array(POINTER_SIZE);
  pointer.set(Buffer.from("_MP_"), 0);
  new DataView(pointer.buffer).setUint32(4, MP_TABLE_ADDRESS + POINTER_SIZE, true);
  pointer[8] = 1; // length in 16-byte units
  pointer[9] = SPEC_REVISION_1_4;
  pointer[10] = checksum(pointer);
  return Buffer.concat([pointer, header, body]);
}

const le32 = (value: number) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
/** The byte that makes all bytes sum to 0 modulo 256. */
const checksum = (...parts: Uint8Array[]) => -parts.reduce((sum, part) => part.reduce((s, b) => s + b, sum), 0) & 0xff;
