; A bare guest around one test of FEX-Emu's unittests: multiboot ELF32 in, long mode, the test at
; CPL 3 until its HLT faults, then every register as one line of hexadecimal on the serial port.
;
; The includer gives (nasm -d, and case.inc in the include path):
;   MODE32        1: the test is 32-bit code
;   case.inc      macro regions: dq address, bytes of memory to map
;                 macro memory: dq address, bytes, then the bytes
;   TEST          file name of the assembled test
;
; Physical memory: 2 MiB this image, 4 MiB page tables, 16 MiB the test's pages.

%define BASE    0x200000
%define TABLES  0x400000
%define PAGES   0x1000000
%define CODE    0x10000
%define COM1    0x3f8

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
        mov esp, stack
        mov al, 0xff                    ; no interrupts from the 8259 pair
        out 0x21, al
        out 0xa1, al
        ; One supervisor mapping: linear 2-6 MiB to itself.
        mov edi, TABLES
        xor eax, eax
        mov ecx, 0x200000 / 4
        rep stosd
        mov dword [TABLES], TABLES + 0x1007
        mov dword [TABLES + 0x1000], TABLES + 0x2007
        mov dword [TABLES + 0x2000 + 8], 0x200083
        mov dword [TABLES + 0x2000 + 16], 0x400083
        ; PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE where there is such a thing
        mov ebx, 1 << 5 | 1 << 9 | 1 << 10
        mov eax, 7
        xor ecx, ecx
        push ebx
        cpuid
        mov edx, ebx
        pop ebx
        test edx, 1
        jz .no_bases
        or ebx, 1 << 16
.no_bases:
        push ebx
        mov eax, 1
        cpuid
        pop ebx
        mov [leaf1], ecx
        test ecx, 1 << 26
        jz .no_xsave
        or ebx, 1 << 18
.no_xsave:
        mov cr4, ebx
        mov eax, TABLES
        mov cr3, eax
        mov ecx, 0xc0000080             ; EFER: LME; no system calls
        rdmsr
        or eax, 0x100
        wrmsr
        mov eax, 0x80050033             ; PG AM WP NE ET MP PE
        mov cr0, eax
        lgdt [gdtr]
        jmp 0x10:wide

        bits 64
wide:   mov ax, 0x18
        mov ss, ax
        mov ds, ax
        mov es, ax
        mov rsp, stack
        test dword [leaf1], 1 << 26
        jz .no_xsave
        mov eax, 3
        test dword [leaf1], 1 << 28
        jz .no_avx
        mov eax, 7
.no_avx:
        xor edx, edx
        xor ecx, ecx
        xsetbv
.no_xsave:
        ; IDT: 32 interrupt gates to the stubs.
        mov rdi, idt
        mov rax, stubs
        mov ecx, 32
.gate:  mov [rdi], ax
        mov word [rdi + 2], 0x10
        mov word [rdi + 4], 0x8e00
        cmp ecx, 32 - 3                 ; INT3 and INTO from CPL 3
        je .user_gate
        cmp ecx, 32 - 4
        jne .gate_done
.user_gate:
        mov word [rdi + 4], 0xee00
.gate_done:
        mov rdx, rax
        shr rdx, 16
        mov [rdi + 6], dx
        mov qword [rdi + 8], 0
        add rdi, 16
        add rax, stub_bytes
        dec ecx
        jnz .gate
        lidt [idtr]
        mov ax, 0x40
        ltr ax
        mov ax, 0x50
        lldt ax
        ; Memory of every test, then of this one.
        mov rsi, region_list
        call map_list
        ; The test and its data.
        mov rsi, test_code
        mov edi, CODE
        mov ecx, test_end - test_code
        rep movsb
        mov rbx, memory_list
.data:  mov rdi, [rbx]
        mov rcx, [rbx + 8]
        lea rsi, [rbx + 16]
        test rcx, rcx
        jz enter
        rep movsb
        mov rbx, rsi
        jmp .data

enter:  fninit
        mov dword [scratch], 0x1f80
        ldmxcsr [scratch]
        xor eax, eax
        mov fs, ax
        mov gs, ax
%if MODE32
        mov al, 0x17
%endif
        mov ds, ax
        mov es, ax
        xor eax, eax
        xor ebx, ebx
        xor ecx, ecx
        xor edx, edx
        xor esi, esi
        xor edi, edi
        xor ebp, ebp
        xor r8, r8
        xor r9, r9
        xor r10, r10
        xor r11, r11
        xor r12, r12
        xor r13, r13
        xor r14, r14
        xor r15, r15
%if MODE32
        push 0x17
%else
        push 0x2b
%endif
        push 0
        push 0x202
%if MODE32
        push 0x0f
%else
        push 0x33
%endif
        push CODE
        iretq

; Maps user pages for each (address, bytes) at RSI up to one of no bytes.
map_list:
        mov rdi, [rsi]
        mov rcx, [rsi + 8]
        add rsi, 16
        test rcx, rcx
        jz .done
        add rcx, rdi
        and rdi, -4096
.page:  call map_page
        add rdi, 4096
        cmp rdi, rcx
        jb .page
        jmp map_list
.done:  ret

; Maps the page at RDI, user, writable, executable, if it is not mapped yet.
map_page:
        mov rbx, TABLES
        mov r8, rdi
        shl r8, 16                      ; bits 47:39 on top
        mov r9d, 3
.level: rol r8, 9
        mov r10, r8
        and r10d, 0x1ff
        lea rbx, [rbx + r10 * 8]
        test byte [rbx], 1
        jnz .down
        mov rax, [next_table]
        add qword [next_table], 4096
        or rax, 7
        mov [rbx], rax
.down:  mov rbx, [rbx]
        and rbx, -4096
        dec r9d
        jnz .level
        rol r8, 9
        and r8d, 0x1ff
        lea rbx, [rbx + r8 * 8]
        test byte [rbx], 1
        jnz .there
        mov rax, [next_page]
        add qword [next_page], 4096
        or rax, 7
        mov [rbx], rax
.there: ret

; Exceptions: error code (or 0) and vector on the stack, then the common part.
%macro stub 1
%%begin:
  %if %1 == 8 || (%1 >= 10 && %1 <= 14) || %1 == 17 || %1 == 21
        nop
        nop
  %else
        push byte 0
  %endif
        push byte %1
        jmp near ended
        align 16, nop
  %if %1 == 0
stub_bytes equ $ - %%begin
  %endif
%endmacro

        align 16
stubs:
%assign vector 0
%rep 32
        stub vector
%assign vector vector + 1
%endrep

ended:  mov [rel dump.gpr + 0], rax
        mov [rel dump.gpr + 8], rcx
        mov [rel dump.gpr + 16], rdx
        mov [rel dump.gpr + 24], rbx
        mov [rel dump.gpr + 40], rbp
        mov [rel dump.gpr + 48], rsi
        mov [rel dump.gpr + 56], rdi
%assign number 8
%rep 8
        mov [rel dump.gpr + number * 8], r %+ number
%assign number number + 1
%endrep
        pop qword [rel dump.vector]
        pop qword [rel dump.code]
        pop qword [rel dump.rip]
        add rsp, 8
        pop qword [rel dump.rflags]
        pop qword [rel dump.gpr + 32]
        cld
        clts
        mov rax, cr2
        mov [rel dump.cr2], rax
        fxsave64 [rel dump.fx]
        test dword [rel leaf1], 1 << 28
        jz .no_avx
%assign number 0
%rep 16
        vextractf128 [rel dump.high + number * 16], ymm %+ number, 1
%assign number number + 1
%endrep
.no_avx:
        mov qword [rel dump.opcode], 0x90
        cmp qword [rel dump.vector], 13
        jne .print
        mov rax, [rel dump.rip]
        movzx eax, byte [rax]
        mov [rel dump.opcode], rax
.print: mov rsi, headline
        mov ecx, headline_end - headline
.head:  lodsb
        call put
        dec ecx
        jnz .head
        mov rsi, dump
        mov ecx, dump_end - dump
.byte:  lodsb
        mov bl, al
        shr al, 4
        call nibble
        mov al, bl
        and al, 15
        call nibble
        dec ecx
        jnz .byte
        mov al, 10
        call put
        xor eax, eax
        mov edx, 0xf4
        out dx, eax
.stop:  cli
        hlt
        jmp .stop

nibble: add al, '0'
        cmp al, '9'
        jbe put
        add al, 'a' - '0' - 10
put:    mov ah, al
        mov edx, COM1 + 5
.wait:  in al, dx
        test al, 0x20
        jz .wait
        mov edx, COM1
        mov al, ah
        out dx, al
        ret

headline:
        db "registers "
headline_end:

        align 16
gdt:    dq 0, 0
        dq 0x00af9b000000ffff           ; 10 code, 64-bit
        dq 0x00cf93000000ffff           ; 18 data
        dq 0x00cffb000000ffff           ; 23 user code, 32-bit
        dq 0x00cff3000000ffff           ; 2b user data
        dq 0x00affb000000ffff           ; 33 user code, 64-bit
        dq 0
        dq 0x0000890000000067 | ((tss - elf) + BASE & 0xffffff) << 16, 0
        dq 0x0000820000000017 | ((ldt - elf) + BASE & 0xffffff) << 16, 0
gdt_end:
ldt:    dq 0
        dq 0x00cffb000000ffff           ; 0f user code, 32-bit
        dq 0x00cff3000000ffff           ; 17 user data
gdtr:   dw gdt_end - gdt - 1
        dq gdt
idtr:   dw 32 * 16 - 1
        dq idt
next_table:
        dq TABLES + 0x3000
next_page:
        dq PAGES
leaf1:  dd 0
scratch:
        dd 0

        align 16
region_list:
        dq CODE, test_end - test_code
        dq 0xe0000000, 10 * 4096
        dq 0xe8000000 - 4096, 2 * 4096
%if MODE32
        dq 0xc0000000, 4096
%endif
%include "case.inc"
        regions
        dq 0, 0
memory_list:
        memory
        dq 0, 0
        align 16
tss:    dd 0
        dq stack
        times 0x66 - 12 db 0
        dw 0x68
        align 16
dump:
.vector:        dq 0
.code:          dq 0
.rip:           dq 0
.rflags:        dq 0
.cr2:           dq 0
.opcode:        dq 0
.gpr:           times 16 dq 0
.fx:            align 16
                times 512 db 0
.high:          times 256 db 0
dump_end:
idt:    times 32 * 16 db 0
        align 16
        times 4096 db 0
stack:
test_code:
        incbin TEST
test_end:
end:
