# A guest of one sector: it writes to its disk for ever, and reads what it wrote before. Slot n of 1024, 4 KiB each from 40 MiB on, has the
# latest number of a write whose remainder is n, over and over. What is not as it should be is an E at port 0xe9, and the end.

    .intel_syntax noprefix
    .code16
    .set SLOTS, 1024
    .set FIRST_SECTOR, 40 << 11

    .globl _start
_start:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    cld
    sti
    mov [drive], dl

again:
    inc dword ptr [count]
    mov eax, [count]
    mov di, 0x8000
    mov cx, 1024
    rep stosd
    mov word ptr [memory], 0x8000
    mov byte ptr [call_number], 0x43
    mov eax, [count]
    and eax, SLOTS - 1
    call transfer

    # Any slot; what it has is the largest number up to now with that remainder, unless it was never written.
    imul eax, dword ptr [count], 0x9e3779b1
    shr eax, 16
    and eax, SLOTS - 1
    mov ebx, [count]
    mov ecx, ebx
    sub ecx, eax
    and ecx, SLOTS - 1
    sub ebx, ecx
    jle rest
    mov [expected], ebx
    mov word ptr [memory], 0xa000
    mov byte ptr [call_number], 0x42
    call transfer
    mov eax, [expected]
    mov di, 0xa000
    mov cx, 1024
    repe scasd
    jne failed

rest:
    test byte ptr [count], 15
    jnz again
    hlt # until the next tick: others use the processor, too
    jmp again

# Reads or writes the slot in eax.
transfer:
    shl eax, 3
    add eax, FIRST_SECTOR
    mov [sector], eax
    mov ah, [call_number]
    mov al, 0
    mov dl, [drive]
    mov si, offset packet
    int 0x13
    jc failed
    ret

failed:
    mov al, 'E'
    out 0xe9, al
stop:
    hlt
    jmp stop

    .balign 4
packet:
    .byte 16, 0
    .word 8
memory:
    .word 0, 0
sector:
    .long 0, 0
expected:
    .long 0
drive:
    .byte 0
call_number:
    .byte 0

    .org 0x1f0
count:
    .long 0
    .org 0x1fe
    .word 0xaa55
