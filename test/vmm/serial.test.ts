import { expect, test } from "bun:test";
import { Serial } from "../../src/vmm/serial.ts";

const THR = 0, IER = 1, IIR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7;

function rig() {
  const output: string[] = [], serial = new Serial((bytes) => void output.push(Buffer.from(bytes).toString("latin1")), () => void rig.interrupts++);
  const rigged = { serial, output, interrupts: 0, print: (text: string) => Buffer.from(text).forEach((byte) => serial.write(THR, byte)) };
  const rig = rigged;
  return rigged;
}

test("output is handed on by the line, when it gets long, and when it is asked for", () => {
  const { serial, output, print } = rig();
  print("one\ntwo\nthr");
  expect(output).toEqual(["one\n", "two\n"]);
  serial.flush();
  serial.flush();
  print("ee\n");
  expect(output.splice(0)).toEqual(["one\n", "two\n", "thr", "ee\n"]);
  print("x".repeat(5000));
  serial.flush();
  expect(output.join("")).toBe("x".repeat(5000));
  expect(Math.max(...output.map(({ length }) => length))).toBeLessThanOrEqual(1024);
});

test("in loop mode nothing goes out, and the modem's outputs come back as inputs", () => {
  const { serial, output, print } = rig();
  serial.write(MCR, 0x1a); // loop, RTS, OUT2
  print("lost\n");
  expect([output, serial.read(MSR)]).toEqual([[], 0x90]); // DCD, CTS
  serial.write(MCR, 0x0b);
  print("seen\n");
  expect([output, serial.read(MSR), serial.read(LSR)]).toEqual([["seen\n"], 0xb0, 0x60]);
});

test("the transmitter's interrupt comes when it is enabled and after each byte, and reading IIR acknowledges it; a restored one comes again", () => {
  const one = rig();
  one.print("a");
  expect([one.interrupts, one.serial.read(IIR)]).toEqual([0, 0xc1]);
  one.serial.write(IER, 0x02);
  one.print("b");
  expect([one.interrupts, one.serial.read(IIR), one.serial.read(IIR)]).toEqual([2, 0xc2, 0xc1]);
  one.serial.write(SCR, 0x5a);
  one.serial.write(LCR, 0x83);
  one.serial.write(THR, 0x01); // the divisor, not a byte
  const other = rig();
  other.serial.restore(one.serial.save());
  expect([other.interrupts, other.serial.read(SCR), other.serial.read(LCR), other.serial.read(THR)]).toEqual([1, 0x5a, 0x83, 0x01]);
  other.serial.restore([]);
  other.serial.restore(Array.from({ length: 100 }, () => 999)); // a damaged file's
});
