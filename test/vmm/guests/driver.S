# A driver of one queue of the device in slot 1, with event indices: makes a chain available, notifies where the device wants that, asks
# for an interrupt, and halts until the chain is used; again and again. Without a timer: where a notification or an interrupt is lost it
# halts for good. The test has set the queue up, with 64 entries; its interrupt is vector 0x30. Chains used at 0x200000, interrupts at 0x200008.
    .globl _start
_start:
#include "map-bars.inc"
    lea idt(%rip), %rdi
    lea interrupt(%rip), %rax
    mov %ax, 0x300(%rdi)
    movw $0x10, 0x302(%rdi)      # code selector of the boot GDT
    movw $0x8e00, 0x304(%rdi)    # present, interrupt gate
    shr $16, %rax
    mov %ax, 0x306(%rdi)
    movl $0, 0x308(%rdi)
    mov %rdi, idtr+2(%rip)
    lidt idtr(%rip)
    mov $0xfee00000, %r14        # local APIC
    movl $0x1ff, 0xf0(%r14)      # spurious vector 0xff, enabled
    mov $0xcf8, %dx              # slot 1: command register, memory decoding
    mov $0x80000804, %eax
    outl %eax, %dx
    mov $0xcfc, %dx
    mov $0x2, %ax
    outw %ax, %dx
    mov $0xd0003000, %rbx        # BAR 0, notify structure, queue 0
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
