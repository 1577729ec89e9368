//! The facade: VMs as plain commands, events and view-models.
