; Starts a 64 KiB BIOS image without firmware: multiboot ELF32 in, the image copied to F0000h, real
; mode entered as after RESET, a jump to FFFF:0000.
;
; The includer gives (nasm -d): ROM, the file name of the image.

%define BASE    0x200000
%define LOW     0x7000                  ; where the last steps run

        org BASE
        bits 32
elf:    db 0x7f, "ELF", 1, 1, 1, 0
        times 8 db 0
        dw 2, 3                         ; executable, 386
        dd 1, start, phdr - elf, 0, 0
        dw 52, 32, 1, 0, 0, 0
phdr:   dd 1, 0, BASE, BASE, end - elf, end - elf, 7, 0x1000
        align 4
        dd 0x1badb002, 0, -0x1badb002   ; multiboot, no wishes

start:  cli
        cld
        mov al, 0xff                    ; no interrupts from the 8259 pair
        out 0x21, al
        out 0xa1, al
        mov esi, rom
        mov edi, 0xf0000
        mov ecx, 0x10000 / 4
        rep movsd
        mov esi, low
        mov edi, LOW
        mov ecx, low_end - low
        rep movsb
        lgdt [gdtr]
        lidt [idtr]
        mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        xor eax, eax
        xor ebx, ebx
        xor ecx, ecx
        xor esi, esi
        xor edi, edi
        xor ebp, ebp
        xor esp, esp
        mov edx, 0x300                  ; the signature a 386 leaves there
        jmp 0x08:LOW

low:    bits 16
        mov cr0, eax                    ; PE off
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        push word 2                     ; flags as after RESET
        popf
        jmp 0xffff:0
low_end:

        align 8
gdt:    dq 0
        dq 0x00009b000000ffff           ; 08 code, 16-bit
        dq 0x000093000000ffff           ; 10 data, 16-bit
gdt_end:
gdtr:   dw gdt_end - gdt - 1
        dd gdt
idtr:   dw 0x3ff
        dd 0
rom:    incbin ROM
end:
