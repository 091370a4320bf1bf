// How the ABI tables beside this file are written: C structs as data, with C's alignment rules, and ioctl numbers.
// test/ffi/abi.test.ts compares every table with gcc and the kernel's headers.

export interface FieldType { readonly size: number; readonly align: number }
export const u8: FieldType = { size: 1, align: 1 };
export const u16: FieldType = { size: 2, align: 2 };
export const u32: FieldType = { size: 4, align: 4 };
export const u64: FieldType = { size: 8, align: 8 };
export const i32 = u32, i64 = u64;
/** `count` elements of `type`; 0 for a flexible array member. */
export const array = (type: FieldType, count: number): FieldType => ({ size: type.size * count, align: type.align });

export interface Layout<K extends string> extends FieldType {
  /** C's name of it, e.g. `struct kvm_regs`. */
  readonly c: string;
  /** The header that declares it, e.g. `linux/kvm.h`. */
  readonly header: string;
  /** Byte offset of each field. */
  readonly at: { readonly [F in K]: number };
  readonly sizes: { readonly [F in K]: number };
}

/** A struct as the C compiler lays it out; `packed` for `__attribute__((packed))`. */
export function struct<K extends string>(c: string, header: string, fields: Record<K, FieldType>, packed = false): Layout<K> {
  const at = {} as Record<K, number>;
  const sizes = {} as Record<K, number>;
  let end = 0, align = 1;
  for (const [name, type] of Object.entries(fields) as [K, FieldType][]) {
    const a = packed ? 1 : type.align;
    end = Math.ceil(end / a) * a;
    at[name] = end;
    sizes[name] = type.size;
    end += type.size;
    align = Math.max(align, a);
  }
  return { c, header, at, sizes, size: Math.ceil(end / align) * align, align };
}

/** Constants of one header, compared with it by the test. */
export interface Constants { readonly header: string; readonly values: Readonly<Record<string, number>> }

// asm-generic/ioctl.h
const IOC_WRITE = 1, IOC_READ = 2;
const ioc = (dir: number, type: number, nr: number, size: number) => ((dir << 30) | (size << 16) | (type << 8) | nr) >>> 0;
export const _IO = (type: number, nr: number) => ioc(0, type, nr, 0);
export const _IOR = (type: number, nr: number, size: number) => ioc(IOC_READ, type, nr, size);
export const _IOW = (type: number, nr: number, size: number) => ioc(IOC_WRITE, type, nr, size);
export const _IOWR = (type: number, nr: number, size: number) => ioc(IOC_READ | IOC_WRITE, type, nr, size);
