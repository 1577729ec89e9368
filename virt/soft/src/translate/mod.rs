//! Tier 1: guest code to host code, block by block.
//!
//! Both are x86-64, so most instructions are copied: the guest's registers, flags and vector
//! state live in the host's own. What changes is what touches memory (an inline look-up in the
//! software TLB, `memory`), what moves control (`branch`), the three registers that the translator
//! keeps for itself (`registers`), and the flags that checks destroy (`flags`). Anything else
//! leaves the block in front of the instruction, and the interpreter executes it.
//!
//! Invariant: at every point where a block can be left, all guest state is that before one guest
//! instruction, and a [`Site`] says which.
//!
//! ```text
//! guest                       host
//! add [rbx+8], rax            lea  r10, [rbx+8]
//!                             mov  r11, r10
//!                             shr  r11, 7                 index of the page's entry
//!                             and  r11d, 0x3fe0
//!                             xor  r10, gs:[r11+TLB+8]    tag of the write table
//!                             cmp  r10, 4096-8            offset in page, if the tag is right
//!                             ja   miss
//!                             mov  r11, gs:[r11+TLB+24]   host page
//!                             add  [r10+r11], rax
//! ```

mod address;
pub(crate) mod announced;
pub(crate) mod asm;
mod bases;
mod branch;
mod emit;
pub(crate) mod facts;
pub(crate) mod flags;
pub(crate) mod flat;
mod forecast;
pub(crate) mod gates;
pub(crate) mod group;
mod lag;
mod late;
mod leads;
mod memory;
pub(crate) mod path;
mod plain;
mod quiet;
pub(crate) mod registers;
pub(crate) mod rename;
pub(crate) mod site;
mod slots;
mod stack;
mod string;
pub(crate) mod stubs;
mod syscall;
mod system;
#[cfg(test)]
mod tests;
mod values;
mod window;

pub(crate) use emit::{BLOCK_INSTRUCTIONS, Numbers, Source, Tools, translate};
pub(crate) use site::{Link, Site, SiteKind};
