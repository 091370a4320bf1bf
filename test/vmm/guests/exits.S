# What an access costs: for each kind in turn, ROUNDS of it between two looks at the TSC; the cycles of kind n stand at 0x200000 + 8n,
# and 0x200100 counts the kinds that are done. Then it resets. The kinds: see bench/exits.ts.
    .set ROUNDS, 2000
    .macro begin
    mov $ROUNDS, %r8d
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    mov %rax, %r9
1:
    .endm
    .macro end kind
    dec %r8d
    jnz 1b
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    sub %r9, %rax
    mov %rax, 8*\kind(%r10)
    incq 0x100(%r10)
    .endm
    .globl _start
_start:
    mov $0x200000, %r10
#include "map-bars.inc"
    mov $0xdf000000, %rbx        # no BAR is there
    begin
    nop
    nop
    end 0
    begin
    mov $0x84, %dx
    inb %dx, %al
    end 1
    begin
    nop
    movl (%rbx), %eax
    end 2
    begin                        # slot 0, register 0
    mov $0xcf8, %dx
    mov $0x80000000, %eax
    outl %eax, %dx
    mov $0xcfc, %dx
    inl %dx, %eax
    end 3
    begin
    mov $0x3f8, %dx
    outb %al, %dx
    end 4
    begin
    mov $0x84, %dx
    inb %dx, %al
    mov $50, %ecx
2:  dec %ecx
    jnz 2b
    end 5
    begin
    mov $50, %ecx
2:  dec %ecx
    jnz 2b
    end 6
    mov $0xfe, %al
    outb %al, $0x64
3:  hlt
    jmp 3b
