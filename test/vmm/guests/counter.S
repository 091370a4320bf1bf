# Counts at 0x200000 for ever: for tests of pause and resume.
    .globl _start
_start:
    mov $0x200000, %rbx
    xor %rax, %rax
1:  inc %rax
    mov %rax, (%rbx)
    jmp 1b
