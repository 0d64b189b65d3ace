# 64 KiB ROM: reset vector -> protected -> long mode, 4-level paging, exceptions, SSE, a timer interrupt, a page fault.
.set ROM, 0xffff0000
.set PML4, 0x10000
.set PDPT, 0x11000
.set PD,   0x12000
.set IDT,  0x8000
.set STACK,0x9000
.set PORT, 0x501
.code16
.section .text
.globl _start
_start:
real:
    cli
    movw %cs:(gdtr16 - _start), %ax
    data32 lgdt %cs:(gdtr - _start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    data32 ljmp $8, $(prot)
gdtr16: .word 0
.code32
prot:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    # tables: zero, then 1 GiB x 2 MiB pages identity for 4 GiB
    movl $PML4, %edi
    xorl %eax, %eax
    movl $0x1800, %ecx
    cld
    rep stosl
    movl $(PDPT + 3), PML4
    movl $(PD + 3), PDPT
    movl $(PD + 0x1003), PDPT + 8
    movl $(PD + 0x2003), PDPT + 16
    movl $(PD + 0x3003), PDPT + 24
    movl $PD, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl %cr4, %eax
    orl $0x620, %eax          # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx    # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    andl $0xfffffffb, %eax    # EM off
    movl %eax, %cr0
    ljmp $24, $long
.code64
long:
    movl $STACK, %esp
    # 1. an exception table: breakpoint (3), page fault (14), timer (32, through the interrupt controller)
    movl $(onbreak), %eax
    movl $(IDT + 3 * 16), %edi
    call gate
    movl $(onfault), %eax
    movl $(IDT + 14 * 16), %edi
    call gate
    movl $(ontimer), %eax
    movl $(IDT + 32 * 16), %edi
    call gate
    lidt idtr(%rip)
    # 2. work in 64-bit mode: forty million instructions, so that a KVM that only emulates them runs into the deadline
    movl $20000000, %ecx
    xorl %eax, %eax
1:  addq %rcx, %rax
    decl %ecx
    jnz 1b
    movabsq $200000010000000, %rbx
    cmpq %rbx, %rax
    jne bad
    # 3. vector registers
    movq %rax, %xmm0
    paddq %xmm0, %xmm0
    movq %xmm0, %rdx
    addq %rax, %rax
    cmpq %rax, %rdx
    jne bad
    # 4. a breakpoint, then a page fault that the handler mends by mapping the page, flushed with invlpg
    xorl %r12d, %r12d
    int3
    cmpl $1, %r12d
    jne bad
    movq $0, PD + 8
    invlpg 0x200000
    movl $0x5446, 0x200000
    cmpl $0x5446, 0x200000
    jne bad
    cmpl $2, %r12d
    jne bad
    # 5. the timer wakes a halted processor (PIC remapped to 32, PIT channel 0 at about 1 kHz), 3 times
    movl $0xfee00000, %ebx    # local APIC: on, LINT0 passes the PIC's interrupts
    movl $0x1ff, 0xf0(%rbx)
    movl $0x700, 0x350(%rbx)
    movb $0x11, %al
    outb %al, $0x20
    movb $0x20, %al
    outb %al, $0x21
    movb $4, %al
    outb %al, $0x21
    movb $1, %al
    outb %al, $0x21
    movb $0xfe, %al
    outb %al, $0x21
    movb $0x34, %al
    outb %al, $0x43
    movb $0xa9, %al
    outb %al, $0x40
    movb $0x04, %al
    outb %al, $0x40
    xorl %r13d, %r13d
1:  sti
    hlt
    cli
    cmpl $3, %r13d
    jb 1b
    movb $0x2a, %al           # QEMU exits with 2 * 0x2a + 1 = 85
    jmp out
bad:
    movb $0x11, %al           # 35: the processor computed something else
out:
    movw $PORT, %dx
    outb %al, %dx
2:  hlt
    jmp 2b

gate:                         # an interrupt gate at %edi for the handler at %eax
    movw %ax, (%rdi)
    movw $24, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shrl $16, %eax
    movw %ax, 6(%rdi)
    movq $0, 8(%rdi)
    ret
onbreak:
    incl %r12d
    iretq
onfault:
    movq %cr2, %rax
    cmpq $0x200000, %rax
    jne bad
    incl %r12d
    movq $0x200083, PD + 8
    addq $8, %rsp
    iretq
ontimer:
    incl %r13d
    movb $0x20, %al
    outb %al, $0x20
    iretq
.balign 16, 0
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdtr:
    .word 31
    .long gdt
.balign 4, 0
idtr:
    .word 0x2ff
    .quad IDT
.org 0xfff0
.code16
    .byte 0xe9
    .word 0xffff & (0x10000 - 0xfff3)
.org 0x10000
