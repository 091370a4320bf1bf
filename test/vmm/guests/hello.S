# A guest of a few instructions: prints on the serial port, reads the host bridge's id, touches memory nobody has, and resets.
# Entered in long mode with an identity map of the first GiB, rsi = boot_params.
    .globl _start
_start:
    mov $0x3f8, %dx
    lea message(%rip), %rbx
1:  movb (%rbx), %al
    test %al, %al
    jz 2f
    outb %al, %dx
    inc %rbx
    jmp 1b
2:  mov $0xcf8, %dx              # CONFIG_ADDRESS: bus 0, slot 0, register 0
    mov $0x80000000, %eax
    outl %eax, %dx
    mov $0xcfc, %dx
    inl %dx, %eax
    cmp $0x00081b36, %eax        # Red Hat, host bridge
    jne fail
    mov $0xcf8, %dx              # slot 31 is empty
    mov $0x8000f800, %eax
    outl %eax, %dx
    mov $0xcfc, %dx
    inl %dx, %eax
    cmp $0xffffffff, %eax
    jne fail
    mov $0x3f8, %dx
    mov $'K', %al
    outb %al, %dx
    mov $'\n', %al
    outb %al, %dx
    mov $0xfe, %al               # keyboard controller: reset
    outb %al, $0x64
3:  hlt
    jmp 3b
fail:
    mov $0x3f8, %dx
    mov $'F', %al
    outb %al, %dx
    mov $'\n', %al
    outb %al, %dx
    ud2                          # no IDT: triple fault
message:
    .asciz "hello from the guest\n"
