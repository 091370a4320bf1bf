# Kicks queue 0 of the device in slot 1 again and again, each time waiting until the device has used one chain more.
# The test has set the queue up: one chain is available for each count; used.idx stands at 0x402002. Counts at 0x200000.
    .globl _start
_start:
#include "map-bars.inc"
#include "slot-1.inc"
    xor %rcx, %rcx
2:  movw $0, (%rbx)
    inc %rcx
3:  movzwl 0x402002, %eax
    cmp %cx, %ax
    jne 3b
    mov %rcx, 0x200000
    cmp $200, %ecx
    jne 2b
    mov $0xfe, %al               # keyboard controller: reset
    outb %al, $0x64
4:  hlt
    jmp 4b
