// Puts a Linux guest into memory and a vCPU at its 64-bit entry (Documentation/x86/boot.rst, "64-bit BOOT PROTOCOL";
// struct boot_params: Documentation/x86/zero-page.rst).
import { must } from "../../../ffi/syscall.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { kvm_dtable, kvm_regs, kvm_segment, kvm_sregs } from "../../../ffi/abi/kvm.ts";
import type { Vcpu } from "../../kvm.ts";
import type { GuestMemory } from "../../memory.ts";
import {
  CMDLINE_ADDRESS, CMDLINE_MAX, GDT_ADDRESS, HIMEM_START, HOLE_END, HOLE_START, MP_TABLE_ADDRESS, PAGE_TABLE_ADDRESS, STACK_TOP, ZERO_PAGE_ADDRESS,
} from "../../layout.ts";
import { mpTable } from "./mptable.ts";

/** Offsets in struct boot_params, and values for them. */
const BP = {
  e820_entries: 0x1e8, boot_flag: 0x1fe, header: 0x202, version: 0x206, type_of_loader: 0x210, ramdisk_image: 0x218, ramdisk_size: 0x21c,
  cmd_line_ptr: 0x228, kernel_alignment: 0x230, cmdline_size: 0x238, e820_table: 0x2d0, size: 0x1000,
} as const;
const BOOT_FLAG = 0xaa55, HEADER_MAGIC = 0x53726448 /* "HdrS" */, PROTOCOL_2_12 = 0x20c, LOADER_UNDEFINED = 0xff;
const KERNEL_ALIGNMENT = 0x1000000;
const E820_RAM = 1, E820_ENTRY_SIZE = 20;

/** A file to load: descriptor and size in bytes. */
export interface BootFile { readonly fd: number; readonly size: number }

export interface BootImage {
  readonly kernel: BootFile;
  /** cpio archives, one after the other. */
  readonly initrd: readonly BootFile[];
  readonly cmdline: string;
  readonly vcpus: number;
}

/** Loads all of it and returns the guest physical address of the kernel's entry. Throws where something does not fit. */
export function loadLinux(memory: GuestMemory, image: BootImage): number {
  const { entry, end } = loadElf(memory, image.kernel);
  const ramdisk = loadInitrd(memory, image.initrd, end);
  const cmdline = Buffer.from(image.cmdline + "\0");
  if (cmdline.length > CMDLINE_MAX) throw new Error(`Cannot boot: the kernel command line has ${cmdline.length} bytes, more than ${CMDLINE_MAX}`);
  put(memory, CMDLINE_ADDRESS, cmdline);
  put(memory, MP_TABLE_ADDRESS, mpTable(image.vcpus));
  put(memory, ZERO_PAGE_ADDRESS, zeroPage(memory.size, ramdisk, cmdline.length - 1));
  put(memory, PAGE_TABLE_ADDRESS, identityPageTables());
  put(memory, GDT_ADDRESS, new Uint8Array(new BigUint64Array([0n, 0n, GDT_CODE64, GDT_DATA]).buffer));
  return entry;
}

const PT_LOAD = 1, ELF_MAGIC = 0x464c457f, ELFCLASS64 = 2, EM_X86_64 = 62, ELF_HEADER_SIZE = 64, PROGRAM_HEADER_SIZE = 56;

/** Reads the PT_LOAD segments straight into guest memory, at their physical addresses. */
function loadElf(memory: GuestMemory, kernel: BootFile): { entry: number; end: number } {
  const header = new DataView(readAt(kernel.fd, 0, ELF_HEADER_SIZE).buffer);
  if (header.getUint32(0, true) !== ELF_MAGIC || header.getUint8(4) !== ELFCLASS64 || header.getUint16(18, true) !== EM_X86_64)
    throw new Error("Cannot boot: the kernel is not an x86-64 ELF file (vmlinux)");
  const programHeaders = Number(header.getBigUint64(32, true)), count = header.getUint16(56, true);
  const table = new DataView(readAt(kernel.fd, programHeaders, count * PROGRAM_HEADER_SIZE).buffer);
  let end = 0;
  for (let i = 0; i < count; i++) {
    const at = i * PROGRAM_HEADER_SIZE;
    if (table.getUint32(at, true) !== PT_LOAD) continue;
    const offset = Number(table.getBigUint64(at + 8, true)), gpa = Number(table.getBigUint64(at + 24, true));
    const fileSize = Number(table.getBigUint64(at + 32, true)), memorySize = Number(table.getBigUint64(at + 40, true));
    loadAt(memory, kernel.fd, offset, gpa, fileSize, "the kernel");
    end = Math.max(end, gpa + memorySize);
  }
  return { entry: Number(header.getBigUint64(24, true)), end };
}

/** Places the archives at the top of low memory, each on a 4-byte line as the kernel's unpacker wants it. */
function loadInitrd(memory: GuestMemory, files: readonly BootFile[], kernelEnd: number): { gpa: number; size: number } {
  const size = files.reduce((sum, file) => sum + align(file.size, 4), 0);
  const gpa = Math.floor((Math.min(memory.size, HOLE_START) - size) / 4096) * 4096;
  if (gpa < kernelEnd) throw new Error(`Cannot boot: ${memory.size} bytes of memory don't hold kernel and initramfs`);
  let at = gpa;
  for (const file of files) {
    loadAt(memory, file.fd, 0, at, file.size, "the initramfs");
    at += align(file.size, 4);
  }
  return { gpa, size };
}

function zeroPage(memorySize: number, ramdisk: { gpa: number; size: number }, cmdlineLength: number): Uint8Array {
  const page = new DataView(new ArrayBuffer(BP.size));
  page.setUint16(BP.boot_flag, BOOT_FLAG, true);
  page.setUint32(BP.header, HEADER_MAGIC, true);
  page.setUint16(BP.version, PROTOCOL_2_12, true);
  page.setUint8(BP.type_of_loader, LOADER_UNDEFINED);
  page.setUint32(BP.ramdisk_image, ramdisk.gpa, true);
  page.setUint32(BP.ramdisk_size, ramdisk.size, true);
  page.setUint32(BP.cmd_line_ptr, CMDLINE_ADDRESS, true);
  page.setUint32(BP.cmdline_size, cmdlineLength, true);
  page.setUint32(BP.kernel_alignment, KERNEL_ALIGNMENT, true);
  const ranges: [number, number][] = [[0, MP_TABLE_ADDRESS], [HIMEM_START, Math.min(memorySize, HOLE_START)]];
  if (memorySize > HOLE_START) ranges.push([HOLE_END, HOLE_END + memorySize - HOLE_START]);
  ranges.forEach(([start, end], i) => {
    const at = BP.e820_table + i * E820_ENTRY_SIZE;
    page.setBigUint64(at, BigInt(start), true);
    page.setBigUint64(at + 8, BigInt(end - start), true);
    page.setUint32(at + 16, E820_RAM, true);
  });
  page.setUint8(BP.e820_entries, ranges.length);
  return new Uint8Array(page.buffer);
}

/** Identity map of the first GiB in 2 MiB pages: enough until the kernel builds its own. */
function identityPageTables(): Uint8Array {
  const PRESENT_WRITABLE = 0x3n, LARGE = 0x80n;
  const tables = new BigUint64Array(3 * 512);
  tables[0] = BigInt(PAGE_TABLE_ADDRESS + 0x1000) | PRESENT_WRITABLE;
  tables[512] = BigInt(PAGE_TABLE_ADDRESS + 0x2000) | PRESENT_WRITABLE;
  for (let i = 0; i < 512; i++) tables[1024 + i] = (BigInt(i) << 21n) | PRESENT_WRITABLE | LARGE;
  return new Uint8Array(tables.buffer);
}

const GDT_CODE64 = 0x00af9b000000ffffn, GDT_DATA = 0x00cf93000000ffffn;
const CODE_SELECTOR = 0x10, DATA_SELECTOR = 0x18, GDT_LIMIT = 31;
const CR0_PE = 1n, CR0_ET = 1n << 4n, CR0_NE = 1n << 5n, CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n, EFER_LME = 1n << 8n, EFER_LMA = 1n << 10n;
const RFLAGS_RESERVED = 2n;
const SEGMENT_CODE = 11, SEGMENT_DATA = 3;

/** Long mode, paging on, rsi = zero page. Call it for the bootstrap vCPU; the others wait for the guest's INIT and SIPI. */
export function enterLongMode(vcpu: Vcpu, entry: number): void {
  const sregs = vcpu.getSregs();
  const { at } = kvm_sregs;
  segment(sregs, at.cs, CODE_SELECTOR, SEGMENT_CODE, true);
  for (const offset of [at.ds, at.es, at.fs, at.gs, at.ss]) segment(sregs, offset, DATA_SELECTOR, SEGMENT_DATA, false);
  sregs.setBigUint64(at.gdt + kvm_dtable.at.base, BigInt(GDT_ADDRESS), true);
  sregs.setUint16(at.gdt + kvm_dtable.at.limit, GDT_LIMIT, true);
  sregs.setBigUint64(at.cr0, CR0_PE | CR0_ET | CR0_NE | CR0_PG, true);
  sregs.setBigUint64(at.cr3, BigInt(PAGE_TABLE_ADDRESS), true);
  sregs.setBigUint64(at.cr4, CR4_PAE, true);
  sregs.setBigUint64(at.efer, EFER_LME | EFER_LMA, true);
  vcpu.setSregs(sregs);
  const regs = new DataView(new ArrayBuffer(kvm_regs.size));
  regs.setBigUint64(kvm_regs.at.rip, BigInt(entry), true);
  regs.setBigUint64(kvm_regs.at.rsi, BigInt(ZERO_PAGE_ADDRESS), true);
  regs.setBigUint64(kvm_regs.at.rsp, BigInt(STACK_TOP), true);
  regs.setBigUint64(kvm_regs.at.rflags, RFLAGS_RESERVED, true);
  vcpu.setRegs(regs);
}

/** A flat 4 GiB segment. */
function segment(sregs: DataView, base: number, selector: number, type: number, code: boolean): void {
  const { at } = kvm_segment;
  sregs.setBigUint64(base + at.base, 0n, true);
  sregs.setUint32(base + at.limit, 0xffffffff, true);
  sregs.setUint16(base + at.selector, selector, true);
  sregs.setUint8(base + at.type, type);
  sregs.setUint8(base + at.present, 1);
  sregs.setUint8(base + at.dpl, 0);
  sregs.setUint8(base + at.db, code ? 0 : 1);
  sregs.setUint8(base + at.s, 1);
  sregs.setUint8(base + at.l, code ? 1 : 0);
  sregs.setUint8(base + at.g, 1);
  sregs.setUint8(base + at.unusable, 0);
}

const align = (value: number, to: number) => Math.ceil(value / to) * to;

function put(memory: GuestMemory, gpa: number, bytes: Uint8Array): void {
  if (!memory.write(gpa, bytes)) throw new Error(`Cannot boot: ${memory.size} bytes of memory are too few`);
}

function readAt(fd: number, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const n = must("Cannot read the kernel", SYS.pread64, fd, bytes, length, offset);
  if (n !== length) throw new Error("Cannot boot: the kernel file is cut off");
  return bytes;
}

function loadAt(memory: GuestMemory, fd: number, offset: number, gpa: number, length: number, what: string): void {
  if (length === 0) return;
  const hva = memory.hva(gpa, length);
  if (hva < 0) throw new Error(`Cannot boot: ${memory.size} bytes of memory are too few for ${what}`);
  for (let done = 0; done < length; ) {
    const n = must(`Cannot read ${what}`, SYS.pread64, fd, hva + done, length - done, offset + done);
    if (n === 0) throw new Error(`Cannot boot: the file of ${what} is cut off`);
    done += n;
  }
}
