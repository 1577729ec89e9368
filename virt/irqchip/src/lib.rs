//! Interrupt controllers as pure models: LAPIC, IOAPIC, 8259 pair, 8254.
