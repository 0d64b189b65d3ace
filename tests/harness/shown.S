# The boot sector of an image with something to see: a green line, a count that goes on from the disk (18 a second, written back),
# and every key echoed. The power button switches it off. Built by:
#   as --32 -o shown.o shown.S && objcopy -O binary -j .text shown.o shown.bin   (its bytes stand in tests/harness/shown.py)
	.code16
	.text
start:	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7000, %sp
	movb	%dl, 0x7e00
	movw	$3, %ax			# 80x25 characters
	int	$0x10
	movw	$0x602, %dx		# ACPI PM1 enable: the power button is to be seen
	movw	$0x100, %ax
	outw	%ax, %dx
	movw	$0x4200, %ax		# the count, from the disk
	call	disk
	movw	$0xb800, %ax
	movw	%ax, %es
	xorw	%di, %di
	movw	$0x2f20, %ax		# a line of green
	movw	$80, %cx
	rep stosw
	movw	$0x0300, %dx		# what is typed begins on the fourth line
	xorw	%bx, %bx
	movb	$2, %ah
	int	$0x10
again:	incl	0x8000
	movw	$0x4300, %ax
	call	disk
	movw	$160, %di		# the count in hex, on the second line
	movl	0x8000, %edx
	movw	$8, %cx
digit:	roll	$4, %edx
	movb	%dl, %al
	andb	$15, %al
	cmpb	$10, %al
	jb	1f
	addb	$39, %al
1:	addb	$48, %al
	movb	$0x0f, %ah
	stosw
	loop	digit
keys:	movb	$1, %ah
	int	$0x16
	jz	none
	xorb	%ah, %ah
	int	$0x16
	movb	$0x0e, %ah
	movw	$7, %bx
	int	$0x10
	jmp	keys
none:	movw	$0x600, %dx		# ACPI PM1 status
	inw	%dx, %ax
	testb	$1, %ah
	jz	rest
	movw	$0x604, %dx		# ACPI PM1 control: off
	movw	$0x2000, %ax
	outw	%ax, %dx
rest:	sti
	hlt
	jmp	again
disk:	movw	$dap + 0x7c00, %si
	movb	0x7e00, %dl
	int	$0x13
	ret
	.align	4
dap:	.byte	16, 0
	.word	1, 0x8000, 0
	.quad	8
