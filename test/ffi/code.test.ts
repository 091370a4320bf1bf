// Every program of machine code against gcc: the bytes are what the texts beside them say.
import { expect, test } from "bun:test";
import { assemble, type Line } from "../../src/ffi/code.ts";
import { SYSCALL_STUB } from "../../src/ffi/syscall.ts";
import { CLONE_STUB } from "../../src/ffi/thread.ts";
import { TURN_LOOK, VCPU_LOOP } from "../../src/vmm/arch/x86/vcpu-loop.ts";
import { command } from "../support/command.ts";
import { TempDir } from "../support/paths.ts";

async function assembledByGcc(program: readonly Line[]): Promise<Uint8Array> {
  using dir = new TempDir("code");
  await Bun.write(dir.join("code.S"), [".intel_syntax noprefix", ...program.map(([text]) => text), ""].join("\n"));
  await command(["gcc", "-c", "-o", dir.join("code.o"), dir.join("code.S")]);
  await command(["objcopy", "-O", "binary", "-j", ".text", dir.join("code.o"), dir.join("code")]);
  return await Bun.file(dir.join("code")).bytes(); // before the folder goes
}

for (const [name, program] of Object.entries({ SYSCALL_STUB, CLONE_STUB, VCPU_LOOP, TURN_LOOK }))
  test(`${name} is what its texts say`, async () => {
    expect(Buffer.from(assemble(program)).toString("hex")).toBe(Buffer.from(await assembledByGcc(program)).toString("hex"));
  });

test("assemble() refuses a jump to nowhere and one that is too far", () => {
  expect(() => assemble([["jmp away", 0xeb]])).toThrow("Cannot jump to away: no such label");
  const nops: Line[] = Array.from({ length: 128 }, () => ["nop", 0x90]);
  expect(() => assemble([["jmp end", 0xeb], ...nops, ["end:"]])).toThrow("Cannot jump to end: too far");
  expect(assemble([["jmp end", 0xeb], ...nops.slice(1), ["end:"]])[1]).toBe(127);
  expect(() => assemble([["start:"], ...nops, ["jmp start", 0xeb]])).toThrow("Cannot jump to start: too far");
});
