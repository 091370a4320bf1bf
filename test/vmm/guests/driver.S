# A driver of one queue of the device in slot 1, with event indices: makes a chain available, notifies where the device wants that, asks
# for an interrupt, and halts until the chain is used; again and again. Without a timer: where a notification or an interrupt is lost it
# halts for good. The test has set the queue up, with 64 entries; its interrupt is vector 0x30. Chains used at 0x200000, interrupts at 0x200008.
    .globl _start
_start:
#include "map-bars.inc"
    .set VECTOR, 0x30
#include "interrupt-gate.inc"
    mov $0xfee00000, %r14        # local APIC
    movl $0x1ff, 0xf0(%r14)      # spurious vector 0xff, enabled
#include "slot-1.inc"
    xor %ecx, %ecx               # available index, and how many were used
2:  mov %ecx, %edx
    inc %ecx
    mov %cx, 0x401002
    mfence                       # before the device's wish is read
    cmp %dx, 0x402204            # avail_event
    jne 3f
    movw $0, (%rbx)
3:  mov %dx, 0x401084            # used_event
    mfence                       # before used.idx is read
4:  cli
    cmp %cx, 0x402002            # used.idx
    je 5f
    sti
    hlt
    jmp 4b
5:  sti
    incq 0x200000
    jmp 2b
interrupt:
    incq 0x200008
    movl $0, 0xb0(%r14)          # end of interrupt
    iretq
    .balign 16
idtr:
    .word 0xfff
    .quad 0
    .balign 16
idt:
    .fill 512, 8, 0
