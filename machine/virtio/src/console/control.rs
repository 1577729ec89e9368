//! Control messages (virtio 1.2, 5.3.6.2): port u32, event u16, value u16, and perhaps more.

/// A message without what may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) port: u32,
    pub(super) event: u16,
    pub(super) value: u16,
}

/// What happens.
pub(super) mod event {
    pub(in super::super) const DEVICE_READY: u16 = 0;
    pub(in super::super) const PORT_ADD: u16 = 1;
    pub(in super::super) const PORT_READY: u16 = 3;
    pub(in super::super) const CONSOLE_PORT: u16 = 4;
    pub(in super::super) const RESIZE: u16 = 5;
    pub(in super::super) const PORT_OPEN: u16 = 6;
    pub(in super::super) const PORT_NAME: u16 = 7;
}

impl Message {
    pub(super) const BYTES: usize = 8;

    pub(super) fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self { port: word as u32, event: (word >> 32) as u16, value: (word >> 48) as u16 }
    }

    /// Its bytes with what follows it.
    pub(super) fn encode(self, more: &[u8]) -> Vec<u8> {
        let Self { port, event, value } = self;
        let word = u64::from(port) | u64::from(event) << 32 | u64::from(value) << 48;
        [&word.to_le_bytes(), more].concat()
    }
}
