//! The guest's vector and x87 arithmetic, executed by the host's own unit.
//!
//! Each distinct instruction, with its memory operand replaced by a bounce buffer and its general
//! register by RAX, becomes a small native routine that loads the guest registers it names from
//! the XSAVE image, executes the instruction itself and stores the results back. So results are
//! the host's to the bit, rounding, NaNs and flags included, with nothing to model.
//!
//! Invariants: a routine touches only the image and the exchange area it is given; it returns with
//! MXCSR at its default, the x87 stack empty and no unmasked exception pending; code memory is
//! never writable and executable through one mapping.

mod arena;
mod emit;
mod features;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use engine::EngineError;
use iced_x86::Instruction;
use interp::vector::{Exchange, VectorHandle, VectorUnit};
use x86::XsaveArea;

use arena::{Arena, Place};
use features::HostFeatures;
pub use features::host_features;

/// Bytes of code memory: about 130,000 distinct instructions, more than most programs have.
const CODE_BYTES: usize = 16 << 20;
/// Left of it when it is time to start over: far more than one block can ask for.
const RESERVE: usize = 1 << 20;
/// CF, PF, AF, ZF, SF, OF.
const STATUS_FLAGS: u64 = 0x8d5;

/// One vCPU's access to the host's vector unit.
pub struct HostVectors {
    arena: Arena,
    known: HashMap<Instruction, VectorHandle>,
    /// Entry points by handle.
    routines: Vec<Place>,
    features: HostFeatures,
}

impl HostVectors {
    /// Reserves code memory. Fails only where the host refuses address space.
    pub fn new() -> Result<Self, EngineError> {
        Ok(Self {
            arena: Arena::new(CODE_BYTES)?,
            known: HashMap::new(),
            routines: Vec::new(),
            features: host_features(),
        })
    }

    /// Whether code memory runs out: drop every decoded instruction, then [`HostVectors::clear`].
    #[inline]
    pub fn is_nearly_full(&self) -> bool {
        self.arena.left() < RESERVE
    }

    /// Forgets every routine. Handles given before must not be executed any more; they panic or
    /// name another instruction, so whoever keeps decoded instructions drops them first.
    pub fn clear(&mut self) {
        self.known.clear();
        self.routines.clear();
        self.arena.clear();
    }
}

impl VectorUnit for HostVectors {
    fn supports(&self, instruction: &Instruction) -> bool {
        instruction.cpuid_features().iter().all(|&feature| self.features.has(feature))
    }

    fn prepare(&mut self, instruction: &Instruction) -> Option<VectorHandle> {
        let normal = emit::normalise(instruction);
        if let Some(&handle) = self.known.get(&normal) {
            return Some(handle);
        }
        let place = self.arena.add(&emit::routine(&normal)?)?;
        let handle = VectorHandle(u32::try_from(self.routines.len()).ok()?);
        self.routines.push(place);
        self.known.insert(normal, handle);
        Some(handle)
    }

    #[inline]
    fn execute(&mut self, handle: VectorHandle, area: &mut XsaveArea, exchange: &mut Exchange) {
        let place = self.routines[handle.0 as usize];
        // A routine may load these with POPFQ: nothing but status flags may be set.
        exchange.rflags &= STATUS_FLAGS;
        self.arena.call(place, area, exchange);
    }
}
