# Faults without an IDT: a triple fault.
    .globl _start
_start:
    ud2
