# Prints a line by one string instruction, for ever, with a read of a string from a port that nobody has after each.
    .globl _start
_start:
    cld
1:  mov $0x3f8, %dx
    lea line(%rip), %rsi
    mov $27, %ecx
    rep outsb
    mov $0x84, %dx
    lea read(%rip), %rdi
    mov $16, %ecx
    rep insb
    lea read(%rip), %rdi
    mov $0xff, %al               # all ones, all of them
    mov $16, %ecx
    repe scasb
    je 1b
    ud2                          # no IDT: triple fault
    .data
line:
    .ascii "abcdefghijklmnopqrstuvwxyz\n"
read:
    .skip 16
