//! An interrupt message on its way to local APICs (SDM vol. 3, 10.6.1, ICR).
//!
//! The same value whether it came from an ICR write, an MSI or an IOAPIC pin. Invariant: the
//! destination is already widened, so [`BROADCAST`] means broadcast whatever the source's width.

use crate::lapic::Identity;

/// The destination that every local APIC matches, in both destination modes.
pub const BROADCAST: u32 = u32::MAX;

/// How a message is delivered (ICR bits 10:8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DeliveryMode {
    #[default]
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    /// Remote read on old processors; ignored.
    Reserved = 3,
    Nmi = 4,
    Init = 5,
    /// A start-up IPI; the vector is the page of its entry point.
    StartUp = 6,
    /// The vector comes from the 8259 pair.
    ExtInt = 7,
}

impl DeliveryMode {
    /// From the three bits.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }
}

/// What the destination field means (ICR bit 11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DestinationMode {
    /// An APIC id.
    #[default]
    Physical,
    /// A set of processors matched against LDR and DFR.
    Logical,
}

/// A destination that needs no destination field (ICR bits 19:18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shorthand {
    /// The destination field counts.
    #[default]
    None,
    /// The sender only.
    ToSelf,
    /// Everybody.
    All,
    /// Everybody but the sender.
    Others,
}

/// Trigger mode (ICR bit 15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Once per message.
    #[default]
    Edge,
    /// Until its source is served: the EOI is broadcast to IOAPICs.
    Level,
}

/// An interrupt message: who gets what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ipi {
    /// Vector; for a start-up IPI the entry page.
    pub vector: u8,
    /// How it is delivered.
    pub delivery: DeliveryMode,
    /// What `destination` means.
    pub mode: DestinationMode,
    /// APIC id or logical set, [`BROADCAST`] for all.
    pub destination: u32,
    /// Overrides `destination` where not `None`.
    pub shorthand: Shorthand,
    /// Assert; false only de-asserts a level-triggered INIT.
    pub level: bool,
    /// Edge or level.
    pub trigger: Trigger,
}

impl Ipi {
    /// A fixed, edge-triggered interrupt for one APIC id.
    pub const fn fixed(vector: u8, apic_id: u32) -> Self {
        Self {
            vector,
            delivery: DeliveryMode::Fixed,
            mode: DestinationMode::Physical,
            destination: apic_id,
            shorthand: Shorthand::None,
            level: true,
            trigger: Trigger::Edge,
        }
    }

    /// Whether the processor `index` that answers to `identity` is addressed by this message when
    /// `source` (an index too; `None` for devices) sends it.
    pub fn selects(&self, source: Option<usize>, index: usize, identity: Identity) -> bool {
        let is_self = source == Some(index);
        identity.mode != crate::lapic::Mode::Disabled
            && match self.shorthand {
                Shorthand::None => identity.matches(self.mode, self.destination),
                Shorthand::ToSelf => is_self,
                Shorthand::All => true,
                Shorthand::Others => !is_self,
            }
    }

    /// The indices of the processors that must [`accept`](crate::Lapic::accept) this message.
    ///
    /// A lowest-priority message goes to exactly one enabled processor, chosen by vector so that
    /// different interrupts spread (the arbitration rule is the implementation's, SDM 10.6.2.4).
    pub fn targets<I>(self, source: Option<usize>, cpus: I) -> impl Iterator<Item = usize>
    where
        I: Iterator<Item = Identity> + Clone,
    {
        let lowest = self.delivery == DeliveryMode::LowestPriority;
        let selected = cpus
            .enumerate()
            .filter(move |&(index, cpu)| {
                self.selects(source, index, cpu) && (!lowest || cpu.software_enabled)
            })
            .map(|(index, _)| index);
        let (skip, take) = if lowest {
            let count = selected.clone().count().max(1);
            (usize::from(self.vector) % count, 1)
        } else {
            (0, usize::MAX)
        };
        selected.skip(skip).take(take)
    }
}
