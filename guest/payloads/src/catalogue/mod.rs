//! The list of payloads; each file is a group.

use crate::payload::Payload;

macro_rules! catalogue {
    (($d:tt) $($group:ident { $($name:ident)* })*) => {
        $(mod $group;)*

        type Entry = (&'static str, fn() -> Payload);

        const ENTRIES: &[Entry] = &[
            $($((concat!(stringify!($group), "::", stringify!($name)), $group::$name),)*)*
        ];

        /// Hands `group { name name ... } ...` of every payload to a macro.
        #[macro_export]
        macro_rules! for_each_payload {
            ($d callback:ident) => {
                $d callback! { $($group { $($name)* })* }
            };
        }
    };
}

catalogue! { ($)
    modes {
        real_mode real_protected_real real_long_real unreal_mode compatibility_mode far_transfers
        vm86
    }
    paging {
        two_level pae four_level large_pages gigabyte_pages accessed_and_dirty no_execute
        write_protect user_and_supervisor smep_smap invalidation pcid page_crossing
        page_table_base control_registers
    }
    faults {
        arithmetic arithmetic_32 segment_loads segment_limits privileged
        user_instruction_prevention floating_point alignment software_interrupts priorities
        iret_checks double_fault triple_fault interrupt_stacks
    }
    io {
        ports_of_every_width string_ports permission_bitmap mmio_of_every_width mmio_vectors
        mmio_misaligned mmio_read_modify_write mmio_operands mmio_strings
    }
    interrupts {
        message_signalled halt_and_wake interrupts_a_loop shadows priorities nesting self_ipi
        x2apic nmi nmi_wakes halted_for_good
    }
    timers { one_shot counts_down periodic deadline time_stamps }
    processors { start_up ping_pong messages_to_the_second shootdown }
    protocols {
        text_poke interrupt_across_sysret interrupts_in_strings invalidation_in_a_loop
        one_page_with_two_neighbours
    }
    registers { msr_round_trips msr_refusals mtrrs bases tsc_aux cpuid cpuid_xsave }
    code { same_page next_instruction other_page alias remapped cross_modifying }
    atomics {
        increment exchange_add compare_exchange compare_exchange_16 compare_exchange_8 spinlock
        split_locks
    }
    strings { moves faults_in_the_middle comparisons address_sizes long_runs }
    debugging {
        single_step single_step_special instruction_breakpoints data_breakpoints port_breakpoints
        registers general_detect
    }
    tasks { jump call_and_return interrupt refusals }
    system_calls { syscall sysenter gates_between_rings }
    vectors { x87 mmx sse fxsave xsave avx avx2 }
}

fn build((name, make): Entry) -> Payload {
    Payload { name, ..make() }
}

/// Every payload.
pub fn all() -> Vec<Payload> {
    ENTRIES.iter().copied().map(build).collect()
}

/// The payload called `group::name`.
pub fn by_name(name: &str) -> Option<Payload> {
    ENTRIES.iter().copied().find(|entry| entry.0 == name).map(build)
}
