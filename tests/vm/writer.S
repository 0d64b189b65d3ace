# A boot sector that writes 64 KiB at a time (INT 13h, AH=43h), 640 times from sector 128 on; a write that fails stops it.
.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    movb %dl, drive
    movw $0x2000, %ax
    movw %ax, %es
    xorw %di, %di
    movw $0x8000, %cx
    movw $0x5aa5, %ax
    cld
    rep stosw
1:  movw $dap, %si
    movb drive, %dl
    movw $0x4300, %ax
    int $0x13
    jc 2f
    addl $64, lba
    decw left
    jnz 1b
2:  hlt
    jmp 2b
drive: .byte 0
left: .word 640
.balign 4
dap: .byte 16, 0
     .word 64
     .word 0, 0x2000
lba: .long 128, 0
.org 510
.word 0xaa55
