# Counts in a loop at 0x200000 and, by the PIT's interrupts, at 0x200008; does what the word at 0x200010 says: n > 0 fills n pages
# from 0x2000000 on with the loop's count and sets it back to 0; -1 zeroes the first of them; -2 resets the machine.
# 0x200018 holds the number of such orders that were carried out; "TICKER!\0" stands at 0x200020.
    .globl _start
_start:
    mov $0x200000, %rbx
    movabs $0x2152454b434954, %rax
    mov %rax, 0x20(%rbx)
    .set VECTOR, 0x20           # the PIT through the PIC
#include "interrupt-gate.inc"
    mov $0x11, %al               # both PICs: cascade, ICW4
    outb %al, $0x20
    outb %al, $0xa0
    mov $0x20, %al
    outb %al, $0x21
    mov $0x28, %al
    outb %al, $0xa1
    mov $0x04, %al
    outb %al, $0x21
    mov $0x02, %al
    outb %al, $0xa1
    mov $0x01, %al
    outb %al, $0x21
    outb %al, $0xa1
    mov $0xfe, %al               # only the timer
    outb %al, $0x21
    mov $0xff, %al
    outb %al, $0xa1
    mov $0x34, %al               # channel 0, mode 2, 1193 Hz / 0.1: every 10 ms
    outb %al, $0x43
    mov $0x9c, %al
    outb %al, $0x40
    mov $0x2e, %al
    outb %al, $0x40
    xor %rcx, %rcx
    sti
1:  inc %rcx
    mov %rcx, (%rbx)
    mov 0x10(%rbx), %rdx
    test %rdx, %rdx
    jz 1b
    cmp $-2, %rdx
    je reset
    mov $0x2000000, %rdi
    cmp $-1, %rdx
    je zero
2:  mov %rcx, (%rdi)
    add $4096, %rdi
    dec %rdx
    jnz 2b
    jmp done
zero:
    movq $0, (%rdi)
done:
    movq $0, 0x10(%rbx)
    incq 0x18(%rbx)
    jmp 1b
reset:
    mov $0xfe, %al
    outb %al, $0x64
3:  hlt
    jmp 3b
interrupt:
    push %rax
    incq 0x200008
    mov $0x20, %al
    outb %al, $0x20
    pop %rax
    iretq
    .balign 16
idtr:
    .word 0xfff
    .quad 0
    .balign 16
idt:
    .fill 512, 8, 0
