// The probe's test guest for 64-bit Arm: a firmware at address 0 of QEMU's `virt` board, at EL1. It switches paging on, runs
// forty million instructions, takes a breakpoint and a fault on an unmapped page, sees the virtual timer expire, writes one
// line to the serial port and asks PSCI for power off. Wrong turns end in the same way with another line.
// Assembled by: as payload-arm64.S -o p.o && objcopy -O binary -j .text p.o

        .text
        .globl _start
_start: adr     x0, vectors
        msr     vbar_el1, x0
        mov     x19, #0                 // exceptions seen

        // Tables in memory at 1 GiB. The first GiB in 2 MiB steps: flash (64 MiB) is normal memory, what follows are devices.
        mov     x1, #0x40000000
        add     x2, x1, #0x1000
        orr     x3, x2, #3              // a table
        str     x3, [x1]
        mov     x3, #0x0701             // a block: accessed, inner shareable, attribute 0 (normal)
        movk    x3, #0x4000, lsl #16
        str     x3, [x1, #8]            // the second GiB: memory
        mov     x4, #0
        mov     x5, #2
1:      str     xzr, [x1, x5, lsl #3]
        add     x5, x5, #1
        cmp     x5, #512
        b.ne    1b
        mov     x5, #0
2:      lsl     x6, x5, #21
        mov     x3, #0x0701
        cmp     x5, #32
        b.lo    3f
        mov     x3, #0x0405             // attribute 1 (device)
3:      orr     x3, x3, x6
        str     x3, [x2, x5, lsl #3]
        add     x5, x5, #1
        cmp     x5, #512
        b.ne    2b
        mov     x0, #0x00ff             // attribute 0: normal, cached; 1: device
        msr     mair_el1, x0
        ldr     x0, =0x200803519        // 39 bits, 4 KiB pages, cached walks, no upper half
        msr     tcr_el1, x0
        msr     ttbr0_el1, x1
        dsb     sy
        tlbi    vmalle1
        dsb     sy
        isb
        mrs     x0, sctlr_el1
        mov     x3, #0x1005             // paging, data cache, instruction cache
        orr     x0, x0, x3
        msr     sctlr_el1, x0
        isb

        ldr     x0, =20000000
4:      subs    x0, x0, #1
        b.ne    4b

        brk     #0
        cmp     x19, #1
        b.ne    wrong
        mov     x0, #0x300000000        // unmapped
        ldr     x1, [x0]
        cmp     x19, #2
        b.ne    wrong

        mrs     x0, cntfrq_el0
        mov     x1, #1000
        udiv    x0, x0, x1
        msr     cntv_tval_el0, x0       // a millisecond
        mov     x0, #3                  // on, no interrupt
        msr     cntv_ctl_el0, x0
        isb
5:      mrs     x0, cntv_ctl_el0
        tbz     x0, #2, 5b

        adr     x0, good
        b       say
wrong:  adr     x0, bad
say:    mov     x1, #0x09000000         // the board's PL011
6:      ldrb    w2, [x0], #1
        cbz     w2, 7f
        str     w2, [x1]
        b       6b
7:      ldr     w0, =0x84000008         // PSCI SYSTEM_OFF
        hvc     #0
8:      wfi
        b       8b

good:   .asciz  "TWOFOLD GOOD\n"
bad:    .asciz  "TWOFOLD WRONG\n"

        .balign 2048
vectors:
        .rept   16
        mrs     x10, elr_el1
        add     x10, x10, #4
        msr     elr_el1, x10
        add     x19, x19, #1
        eret
        .balign 128
        .endr
        .ltorg
