// One saved machine ("generation") but for its guest memory, which lies in a file of its own; this says which pages are in it.
import { corrupted, decodeContainer, encodeContainer } from "./container.ts";
import type { CpuFeatures } from "./cpu.ts";
import { decodeExtents, encodeExtents, type Extent } from "./extents.ts";
import { MachineStateError } from "./fault.ts";
import { decodeVcpu, decodeVm, encodeVcpu, encodeVm, type VcpuState, type VmState } from "./x86.ts";

export const PAGE_BYTES = 4096;
/** More vCPUs and memory than any monitor gives: what is beyond is damage. */
const MAX_VCPUS = 256, MAX_PAGES = 2 ** 31;

/** What a machine is made of; another one can't take its state. */
export interface MachineParams {
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly xsave: boolean;
  readonly disks: readonly SavedDisk[];
  /** It has a network device. */
  readonly network: boolean;
}

/** What the main thread keeps for the guest outside of KVM and devices. */
export interface BoardState {
  readonly pciAddress: number;
  /** Registers of the serial port. */
  readonly serial: readonly number[];
  /** BAR registers, by PCI slot. */
  readonly bars: readonly (readonly number[])[];
}

export interface SavedDisk {
  readonly readonly: boolean;
  readonly serial: string;
  readonly bytes: number;
  /** SHA-256 of its first block (an ext4's superblock lies in it), in hexadecimal, where that is remembered. */
  readonly head?: string;
}

export interface SavedMachine {
  readonly id: string;
  /** The generation that this one is a delta over. */
  readonly base: string | null;
  /** Milliseconds since the epoch, here and in `guest`. */
  readonly savedAt: number;
  readonly params: MachineParams;
  readonly cpu: CpuFeatures;
  /** `agent`: its control port has been opened, somebody answers there. */
  readonly guest: { readonly bootedAt: number | null; readonly runningAt: number | null; readonly agent: boolean };
  readonly vcpus: readonly VcpuState[];
  readonly vm: VmState;
  readonly board: BoardState;
  /** One JSON value a device, in the order of the bus. */
  readonly devices: readonly unknown[];
  readonly pages: readonly Extent[];
}

const Section = { META: 1, DEVICES: 2, VM: 3, PAGES: 4, VCPUS: 0x100 } as const;

export function encodeMachine(machine: SavedMachine): Uint8Array<ArrayBuffer> {
  const { vcpus, vm, devices, pages, ...meta } = machine;
  const sections = new Map<number, Uint8Array>([
    [Section.META, Buffer.from(JSON.stringify(meta))], [Section.DEVICES, Buffer.from(JSON.stringify(devices))],
    [Section.VM, encodeVm(vm)], [Section.PAGES, encodeExtents(pages)],
  ]);
  vcpus.forEach((vcpu, i) => sections.set(Section.VCPUS + i, encodeVcpu(vcpu)));
  return encodeContainer(sections);
}

/** Throws MachineStateError and nothing else, whatever the bytes are. */
export function decodeMachine(bytes: Uint8Array): SavedMachine {
  const section = sectionsOf(bytes), { meta, pages } = decodeMemory(section);
  const devices = parseJson(section(Section.DEVICES));
  if (!Array.isArray(devices)) throw corrupted("its devices are no list");
  const vcpus = Array.from({ length: meta.params.vcpus }, (_, i) => decodeVcpu(section(Section.VCPUS + i)));
  return { ...meta, vcpus, vm: decodeVm(section(Section.VM)), devices, pages };
}

/** What a generation says to those over it: its memory. */
export type BaseMachine = Pick<SavedMachine, "id" | "base" | "params" | "pages">;

/** As decodeMachine(), without what only the newest of a chain is asked for. */
export function decodeBase(bytes: Uint8Array): BaseMachine {
  const { meta, pages } = decodeMemory(sectionsOf(bytes));
  return { ...meta, pages };
}

type Sections = (number: number) => Uint8Array;

function sectionsOf(bytes: Uint8Array): Sections {
  const sections = decodeContainer(bytes);
  return (number) => {
    const found = sections.get(number);
    if (found === undefined) throw corrupted(`section ${number} is missing`);
    return found;
  };
}

function decodeMemory(section: Sections): { readonly meta: Meta; readonly pages: readonly Extent[] } {
  const meta = decodeMeta(parseJson(section(Section.META)));
  const pages = decodeExtents(section(Section.PAGES), meta.params.memoryBytes / PAGE_BYTES);
  if (pages === null) throw corrupted("its page map is none");
  return { meta, pages };
}

type Meta = Omit<SavedMachine, "vcpus" | "vm" | "devices" | "pages">;

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString());
  } catch {
    throw corrupted("a section of it is no JSON");
  }
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
const isCount = (value: unknown, max: number): value is number => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max;
const isTime = (value: unknown): boolean => value === null || (typeof value === "number" && Number.isFinite(value));
const isNumbers = (value: unknown): boolean => Array.isArray(value) && value.every((one) => isCount(one, 0xffff_ffff));

function decodeMeta(meta: unknown): Meta {
  if (!isObject(meta) || !isObject(meta["params"]) || !isObject(meta["cpu"]) || !isObject(meta["guest"]) || !isObject(meta["board"])) throw corrupted("its description is incomplete");
  const { id, base, savedAt, params, cpu, guest, board } = meta;
  const sound =
    typeof id === "string" && (base === null || typeof base === "string") && typeof savedAt === "number" &&
    isCount(params["memoryBytes"], MAX_PAGES * PAGE_BYTES) && params["memoryBytes"] % PAGE_BYTES === 0 && isCount(params["vcpus"], MAX_VCPUS) && params["vcpus"] > 0 &&
    typeof params["xsave"] === "boolean" && typeof params["network"] === "boolean" && Array.isArray(params["disks"]) && params["disks"].every(isDisk) &&
    typeof cpu["vendor"] === "string" && isObject(cpu["words"]) && isNumbers(Object.values(cpu["words"])) &&
    isTime(guest["bootedAt"]) && isTime(guest["runningAt"]) && typeof guest["agent"] === "boolean" &&
    isCount(board["pciAddress"], 0xffff_ffff) && isNumbers(board["serial"]) && Array.isArray(board["bars"]) && board["bars"].every(isNumbers);
  if (!sound) throw corrupted("its description makes no sense");
  return meta as unknown as Meta;
}

const isDisk = (disk: unknown): boolean =>
  isObject(disk) && typeof disk["readonly"] === "boolean" && typeof disk["serial"] === "string" && isCount(disk["bytes"], Number.MAX_SAFE_INTEGER) &&
  (disk["head"] === undefined || typeof disk["head"] === "string");

/** `machines`, newest first, are the generations `ids`, each a delta over the next, the last over nothing. Throws MachineStateError. */
export function checkChain(machines: readonly BaseMachine[], ids: readonly string[]): void {
  if (machines.length === 0 || machines.length !== ids.length) throw new MachineStateError("foreign", "Cannot use the saved machine: it has no generations");
  machines.forEach((machine, i) => {
    if (machine.id !== ids[i]) throw new MachineStateError("foreign", `Cannot use the saved machine: the file of generation ${ids[i]} holds ${machine.id}`);
    const base = ids[i + 1] ?? null;
    if (machine.base !== base) throw new MachineStateError("foreign", `Cannot use the saved machine: generation ${machine.id} is a delta over ${machine.base ?? "nothing"}, not over ${base ?? "nothing"}`);
    if (machine.params.memoryBytes !== machines[0]!.params.memoryBytes) throw new MachineStateError("foreign", `Cannot use the saved machine: generation ${machine.id} has another size of memory`);
  });
}

/** Whether a machine made as `wanted` can take the state; throws MachineStateError saying what differs. */
export function checkParams(saved: MachineParams, wanted: MachineParams): void {
  const differ = (what: string, was: unknown, is: unknown): void => {
    if (was !== is) throw new MachineStateError("incompatible", `Cannot use the saved machine: it was saved with ${what} ${String(was)}, and here is ${String(is)}`);
  };
  differ("memory of bytes", saved.memoryBytes, wanted.memoryBytes);
  differ("vCPUs", saved.vcpus, wanted.vcpus);
  differ("XSAVE", saved.xsave, wanted.xsave);
  differ("a network device", saved.network, wanted.network);
  differ("disks", saved.disks.length, wanted.disks.length);
  saved.disks.forEach((disk, i) => {
    differ(`disk ${i} read-only`, disk.readonly, wanted.disks[i]!.readonly);
    differ(`disk ${i} of bytes`, disk.bytes, wanted.disks[i]!.bytes);
    const { head = disk.head } = wanted.disks[i]!;
    if (disk.head !== undefined && head !== disk.head)
      throw new MachineStateError("incompatible", `Cannot use the saved machine: disk ${i} (${disk.serial}) is not as its guest has left it: another file is in its place, or somebody has written it meanwhile`);
  });
}
